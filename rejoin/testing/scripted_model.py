"""`ScriptedModel`: a model whose responses a test writes down."""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import msgspec

from rejoin_protocol.events.chunks import (
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
)
from rejoin_protocol.json_types import to_json
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, Usage


class Text(msgspec.Struct, frozen=True):
    """A text, which arrives word by word."""

    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """What the model thinks before it answers."""

    text: str


class Call(msgspec.Struct, frozen=True):
    """A call of a tool."""

    tool: str
    input: Any


class Pause(msgspec.Struct, frozen=True):
    """The model is silent for so many seconds."""

    seconds: float


class Failure(msgspec.Struct, frozen=True):
    """The provider fails here."""

    detail: str
    retryable: bool = False


type ScriptItem = str | Text | Reasoning | Call | Pause | Failure
type ScriptedResponse = ScriptItem | Sequence[ScriptItem]
type ScriptEntry = ScriptedResponse | Callable[[ModelRequest], ScriptedResponse]


def text(content: str) -> Text:
    """A text of the model. A plain string in a script is the same."""
    return Text(content)


def reasoning(content: str) -> Reasoning:
    """A reasoning part of the model."""
    return Reasoning(content)


def call(tool: str, /, **input: Any) -> Call:
    """A call of the tool named `tool` with these arguments."""
    return Call(tool, input)


def output(value: Any = None, /, **fields: Any) -> Text:
    """The typed answer of the model: an object, or its fields. It is a text, as a model writes it."""
    return Text(to_json(fields if value is None else value).decode())


def raw_call(tool: str, arguments: str) -> Call:
    """A call whose arguments are not a JSON object: the text as the model wrote it."""
    return Call(tool, arguments)


def pause(seconds: float) -> Pause:
    """Silence of the model, in seconds of real time."""
    return Pause(seconds)


def fail(detail: str, *, retryable: bool = False) -> Failure:
    """An error of the provider. `retryable`: a `Fallback` asks its next model, if no text came before."""
    return Failure(detail, retryable)


class ScriptEnded(AssertionError):
    """The model was called more often than the script has responses."""


class ScriptedModel:
    """A `Model` that gives the responses of a script, one for each model call.

    A response is a text, a `call(…)`, a list of several of these, or a function of the `ModelRequest` that
    returns one of them. A call that the runner repeats after a crash gets the same response again; a call
    that it repeats after `fail(…)` gets the next one.

        ScriptedModel(
            call("find_order", number="A-17"),
            [reasoning("Too much for me."), call("refund", number="A-17", cents=49_900)],
            lambda request: f"Step {request.step} is the last one.",
        )

    `name`: what errors call it.
    """

    def __init__(self, *script: ScriptEntry, name: str = "the model") -> None:
        self._script = script
        self._name = name
        self._given: dict[tuple[str, int], int] = {}
        self._next = 0
        self.requests: list[ModelRequest] = []
        """Every request that the model received, oldest first."""
        self.error: ScriptEnded | None = None
        """Set once the script had no response for a call. `Chat` raises it."""

    @property
    def responses_left(self) -> int:
        """How many responses of the script nobody has asked for."""
        return len(self._script) - self._next

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `rejoin.Model`."""
        self.requests.append(request)
        message = request.history[-1]["id"] if request.history else ""
        step = (message, request.step)
        number = self._find(step)
        items = _items(self._script[number], request)
        words, calls = 0, 0
        for index, item in enumerate(items):
            match item:
                case Failure(detail, retryable):
                    del self._given[step]
                    raise ModelError(detail, retryable=retryable)
                case Pause(seconds):
                    await asyncio.sleep(seconds)
                case Call(tool, input):
                    calls += 1
                    for chunk in _call_chunks(f"call_{number}_{index}", tool, input):
                        yield chunk
                case Text(content) | str(content):
                    words += len(content.split())
                    for chunk in _text_chunks(f"t{index}", content):
                        yield chunk
                case Reasoning(content):
                    words += len(content.split())
                    for chunk in _reasoning_chunks(f"r{index}", content):
                        yield chunk
        usage = Usage(input_tokens=len(request.history), output_tokens=words + calls)
        yield Done("tool-calls" if calls else "stop", usage)

    def _find(self, step: tuple[str, int]) -> int:
        """The number of the step's response in the script."""
        if step in self._given:
            return self._given[step]
        if self._next == len(self._script):
            count = len(self._script)
            self.error = ScriptEnded(f"{self._name} was called, and its script has only {count} responses")
            raise ModelError(str(self.error))
        self._given[step] = self._next
        self._next += 1
        return self._given[step]


def _items(entry: ScriptEntry, request: ModelRequest) -> Sequence[ScriptItem]:
    response = entry(request) if callable(entry) else entry
    return response if isinstance(response, list | tuple) else [response]  # type: ignore[list-item]


def _words(content: str) -> list[str]:
    return re.findall(r"\s*\S+(?:\s+$)?|\s+", content)


def _text_chunks(id: str, content: str) -> Iterator[ModelChunk]:
    yield TextStart(id=id)
    for delta in _words(content):
        yield TextDelta(id=id, delta=delta)
    yield TextEnd(id=id)


def _reasoning_chunks(id: str, content: str) -> Iterator[ModelChunk]:
    yield ReasoningStart(id=id)
    for delta in _words(content):
        yield ReasoningDelta(id=id, delta=delta)
    yield ReasoningEnd(id=id)


def _call_chunks(id: str, tool: str, input: Any) -> Iterator[ModelChunk]:
    yield ToolInputStart(tool_call_id=id, tool_name=tool)
    arguments = input if isinstance(input, str) else msgspec.json.encode(input).decode()
    yield ToolInputDelta(tool_call_id=id, input_text_delta=arguments)
    yield ToolInputAvailable(tool_call_id=id, tool_name=tool, input=input)
