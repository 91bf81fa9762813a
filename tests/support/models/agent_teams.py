"""Agents that reach each other, and models that follow a script: texts and tool calls, step by step."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from rejoin_protocol.events.chunks import (
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    TextDelta,
    TextEnd,
    TextStart,
)
from rejoin_protocol.events.chunks import ToolInputAvailable as Called
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelError, ModelRequest, Usage


class Calls(msgspec.Struct, frozen=True):
    """A line that calls a tool. The ids are the same in every agent's mouth."""

    tool: str
    input: dict[str, Any] = {}


class Thinks(msgspec.Struct, frozen=True):
    """A line that is thought, not said."""

    text: str


class Breaks(msgspec.Struct, frozen=True):
    """The model fails here."""


type Line = str | Calls | Thinks | Breaks
type Lines = Mapping[str, Sequence[Sequence[Line]]]


class ScriptedPart(msgspec.Struct):
    """A model that plays: for each thing that it may be asked, the lines of each step. `{}` in a line are the
    outcomes of the calls it has seen. `seen` is what it was asked.
    """

    lines: Lines
    seen: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        self.seen.append(request)
        asked = [part["text"] for part in request.history[-1]["parts"] if part["type"] == "text"]
        lines = self.lines["".join(asked)][request.step]
        for number, line in enumerate(lines):
            match line:
                case Breaks():
                    raise ModelError("The provider is on fire.")
                case Calls(name, input):
                    yield Called(f"call_{request.step}_{number}", name, input)
                case Thinks(text):
                    yield ReasoningStart(id="t")
                    yield ReasoningDelta(id="t", delta=text)
                    yield ReasoningEnd(id="t")
                case str():
                    yield TextStart(id="t")
                    yield TextDelta(id="t", delta=line.replace("{}", " ".join(outcomes(request.answer))))
                    yield TextEnd(id="t")
        yield Done("stop", Usage(1, 10))


def outcomes(message: MessageDict) -> list[str]:
    """How the calls of a message went."""
    calls = [part for part in message["parts"] if part["type"].startswith("tool-")]
    return [str(call.get("output") or call.get("errorText") or call["state"]).strip() for call in calls]


def texts(message: MessageDict, kind: str) -> list[str]:
    """What a message's parts of one kind say."""
    return [part["text"].strip() for part in message["parts"] if part["type"] == kind]


def scripted_agent(name: str, lines: Lines, **fields: Any) -> Agent:
    """An agent with a part to play."""
    return Agent(name=name, model=ScriptedPart(lines, []), description=f"The {name} agent.", **fields)


def model_requests(one: Agent) -> list[ModelRequest]:
    """What its model was asked."""
    assert isinstance(one.model, ScriptedPart)
    return one.model.seen
