"""The demo's model: answers by rules, needs no key and no network.

The last user text decides what it answers: see `HELP`. The answer depends on the request only, never on a
clock or on chance, so an interrupted answer is repeated exactly.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
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
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import STEERING_PART
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, Usage

HELP = (
    "I am the demo agent. Try: `count 20 every 200 ms`, `weather Paris`, `delete notes.txt`, `think`, "
    "`sleep 5`, `fail`."
)
COUNT_MAX = 1_000_000
_COUNT_COMMAND = re.compile(r"count\s+(\d+)(?:\s+every\s+(\d+)\s*ms)?", re.IGNORECASE)
_TOOL_COMMAND = re.compile(r"(weather|delete|sleep)\s+(.+)", re.IGNORECASE | re.DOTALL)
_TOOL_ARGUMENTS = {"weather": "city", "delete": "file", "sleep": "seconds"}


class DemoModel:
    """A `Model` that answers by rules."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model.stream`."""
        text = _last_text(request)
        results = _describe_results(_parts_since_steering(request.answer))
        words = 0
        if results:
            for chunk in _text_chunks(" ".join(results)):
                yield chunk
            words = len(results)
        elif count := _COUNT_COMMAND.fullmatch(text):
            words = min(int(count[1]), COUNT_MAX)
            async for chunk in _count_chunks(words, int(count[2] or 0) / 1_000):
                yield chunk
        elif call := _TOOL_COMMAND.fullmatch(text):
            for chunk in _tool_call_chunks(call[1].lower(), call[2].strip()):
                yield chunk
            yield Done("tool-calls", _usage(text, 1))
            return
        elif text.lower() == "think":
            for chunk in _thinking_chunks():
                yield chunk
        elif text.lower() == "fail":
            yield TextStart(id="t")
            yield TextDelta(id="t", delta="This is going ")
            raise ModelError("The model failed in the middle of its answer, as it was asked to.")
        else:
            for chunk in _text_chunks(f"You said: {text}\n\n{HELP}"):
                yield chunk
            words = len(text.split())
        yield Done("stop", _usage(text, words))


def _usage(text: str, words: int) -> Usage:
    return Usage(input_tokens=len(text.split()), output_tokens=max(words, 1))


def _text_chunks(text: str) -> Iterator[ModelChunk]:
    yield TextStart(id="t")
    for delta in re.findall(r"\s*\S+\s*?(?=\s|$)|\s+", text):
        yield TextDelta(id="t", delta=delta)
    yield TextEnd(id="t")


async def _count_chunks(last: int, pause_s: float) -> AsyncIterator[ModelChunk]:
    yield TextStart(id="t")
    for number in range(1, last + 1):
        if number > 1:
            await asyncio.sleep(pause_s)  # also at 0: other tasks must run in between
        yield TextDelta(id="t", delta=str(number) if number == 1 else f" {number}")
    yield TextEnd(id="t")


def _thinking_chunks() -> Iterator[ModelChunk]:
    yield ReasoningStart(id="r")
    for delta in ("Let me ", "think about ", "this for ", "a moment."):
        yield ReasoningDelta(id="r", delta=delta)
    yield ReasoningEnd(id="r")
    yield from _text_chunks("I have thought about it.")


def _tool_call_chunks(tool: str, value: str) -> Iterator[ModelChunk]:
    name = _TOOL_ARGUMENTS[tool]
    argument = float(value) if tool == "sleep" and re.fullmatch(r"\d+(\.\d+)?", value) else value
    argument_json = msgspec.json.encode(argument).decode()
    yield ToolInputStart(tool_call_id="call_1", tool_name=tool)
    for piece in (f'{{"{name}": ', argument_json, "}"):
        yield ToolInputDelta(tool_call_id="call_1", input_text_delta=piece)
    yield ToolInputAvailable(tool_call_id="call_1", tool_name=tool, input={name: argument})


def _last_text(request: ModelRequest) -> str:
    """The last text of the user, who may have sent it during the run."""
    steering = [part for part in request.answer["parts"] if part["type"] == STEERING_PART]
    for message in [*reversed(steering), *reversed(request.history)]:
        if message.get("role", "user") == "user":
            return "".join(part["text"] for part in message["parts"] if part["type"] == "text").strip()
    return ""


def _parts_since_steering(answer: MessageDict) -> Sequence[dict[str, Any]]:
    parts: Sequence[dict[str, Any]] = answer["parts"]
    steering = [number for number, part in enumerate(parts) if part["type"] == STEERING_PART]
    return parts[steering[-1] :] if steering else parts


def _describe_results(parts: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence about each finished call."""
    sentences = []
    for part in parts:
        match part.get("state"):
            case "output-available" if part["type"].startswith("tool-"):
                sentences.append(str(part["output"]))
            case "output-denied":
                sentences.append("You said no, so I left it alone.")
            case "output-error":
                sentences.append(f"That did not work: {part['errorText']}")
            case _:
                pass
    return sentences
