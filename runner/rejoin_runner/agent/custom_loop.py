"""An application's own loop in the place of ours: LangGraph, pydantic-ai, or anything that yields.

Owns what such a loop is told and what it may say. Its run has the same log, the same resume of the stream
and the same interrupt as any other, and is one step: after a crash it is begun again from its start
(`restart`; what it had said is void) or fails visibly (`fail`). Tools and approvals of Rejoin are not offered
in it: a tool that the loop calls is its own, and is only shown, as chunks.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec
from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import RunId, SessionId

from rejoin_runner.models.model import Done, Usage
from rejoin_runner.tools.tool_context import OutputContext

type CrashPolicy = Literal["restart", "fail"]
type MessageChunk = (
    chunks.TextStart
    | chunks.TextDelta
    | chunks.TextEnd
    | chunks.ReasoningStart
    | chunks.ReasoningDelta
    | chunks.ReasoningEnd
    | chunks.File
    | chunks.SourceUrl
    | chunks.SourceDocument
    | chunks.Custom
    | chunks.Data
    | chunks.ToolInputStart
    | chunks.ToolInputDelta
    | chunks.ToolInputAvailable
    | chunks.ToolInputError
    | chunks.ToolOutputAvailable
    | chunks.ToolOutputError
)
"""What a loop may say: parts of the message. Its frame (`start`, steps, `finish`) is not the loop's."""
type LoopOutput = MessageChunk | Usage | str
type Function[C] = Callable[["RunInput[C]"], AsyncIterator[LoopOutput]]

CRASH_ERROR = "The run's worker went away, and this agent's work is not begun twice."


class LoopError(Exception):
    """Raise it in a loop to end the run with an error in these words."""


class RunInput[C](OutputContext, frozen=True):
    """What a loop is told. `messages`: the conversation as UI messages, oldest first, the user's last.

    `attempt` counts from 1: greater, and an earlier worker may have begun the same.
    """

    run: RunId
    session: SessionId
    agent: str
    messages: Sequence[UIMessage]
    context: C
    attempt: int = 1

    @property
    def text(self) -> str:
        """What the user said last."""
        parts = self.messages[-1]["parts"] if self.messages else []
        return "".join(part["text"] for part in parts if part["type"] == "text")

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this run."""
        return self.run

    @property
    def _id_prefix(self) -> str:
        return self.run


class CustomLoop(msgspec.Struct, frozen=True):
    """An async generator function, and what becomes of a run whose worker died."""

    function: Callable[[RunInput[Any]], AsyncIterator[Any]]
    on_crash: CrashPolicy


async def run_loop(loop: CustomLoop, run: RunInput[Any]) -> AsyncGenerator[MessageChunk | Done]:
    """What the loop says, strings as text parts. Raises `LoopError` and what the loop raises."""
    said = loop.function(run)
    if not isinstance(said, AsyncGenerator):
        said = _generator(said)
    async with aclosing(said), aclosing(_parts(said)) as parts:  # one that is cut off ends within its run
        async for part in parts:
            yield part


async def _generator(said: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    async for one in said:
        yield one


async def _parts(loop: AsyncIterator[Any]) -> AsyncGenerator[MessageChunk | Done]:
    texts = 0
    in_text = False
    usage = Usage()
    async for said in loop:
        if isinstance(said, str):
            if not in_text:
                texts, in_text = texts + 1, True
                yield chunks.TextStart(id=f"own{texts}")
            if said:
                yield chunks.TextDelta(id=f"own{texts}", delta=said)
            continue
        if in_text:
            in_text = False
            yield chunks.TextEnd(id=f"own{texts}")
        if isinstance(said, Usage):
            usage += said
        else:
            yield _checked(said)
    if in_text:
        yield chunks.TextEnd(id=f"own{texts}")
    yield Done("stop", usage)


_SHOWN: tuple[type[Any], ...] = tuple(MessageChunk.__value__.__args__)


def _checked(said: Any) -> MessageChunk:
    """A tool of the loop's is marked as executed elsewhere: nobody else is to run it."""
    if not isinstance(said, _SHOWN):
        raise LoopError(f"The agent said {type(said).__name__}, which is no part of a message.")
    shown: MessageChunk = said
    match shown:
        case (
            chunks.ToolInputStart()
            | chunks.ToolInputAvailable()
            | chunks.ToolInputError()
            | chunks.ToolOutputAvailable()
            | chunks.ToolOutputError()
        ):
            return msgspec.structs.replace(shown, provider_executed=True, dynamic=True)
        case _:
            return shown
