"""A custom loop: an application's own agent loop in place of a model and tools, for example LangGraph's.

Owns what such a loop gets and what it may emit. Its run has the same log, stream resume and interrupt as any
run, and is one step. After a crash the loop starts again from its beginning (`restart`: the earlier output is
voided) or the run fails (`fail`). The loop calls its tools itself, and its chunks only show them, except for
an `OwnCall`, which Rejoin makes before the loop's next step.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from typing import Any, Literal

import msgspec

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import RunId, SessionId
from rejoin_runner.models.model import Done, ModelUsage, Usage
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
"""The parts of a message that a loop may emit. Rejoin adds `start`, `finish` and the steps."""


class OwnCall(msgspec.Struct, frozen=True):
    """A call of one of the agent's own `tools`. Rejoin makes it, with its approval if it needs one; then the
    loop is called again, and has the result in its messages.
    """

    id: str
    tool: str
    input: Any


type LoopOutput = MessageChunk | OwnCall | Usage | str

CRASH_ERROR = "The run's runner died, and this agent's work is not begun twice."


class LoopError(Exception):
    """Raise it in a loop to end the run with an error. The users see the text."""


class RunInput[C](OutputContext, frozen=True):
    """What a custom loop gets. Its methods show things to the user.

    Attributes:
        run: The run's id.
        session: The session's id.
        agent: The agent's name.
        messages: The conversation as UI messages, oldest first. The last one is a user message, or behind an
            `OwnCall` the answer so far.
        context: The application's own context of the request, an instance of the agent's `context` type.
        attempt: Counts from 1. From 2 on, an earlier runner may have started the same work.
    """

    run: RunId
    session: SessionId
    agent: str
    messages: Sequence[MessageDict]
    context: C
    attempt: int = 1

    @property
    def text(self) -> str:
        """The text of the user's last message."""
        messages = [message for message in self.messages if message["role"] == "user"]
        parts = messages[-1]["parts"] if messages else []
        return "".join(part["text"] for part in parts if part["type"] == "text")

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this run."""
        return self.run

    @property
    def _id_prefix(self) -> str:
        return self.run


class CustomLoop(msgspec.Struct, frozen=True):
    """An async generator function, and what happens to a run whose runner crashed."""

    function: Callable[[RunInput[Any]], AsyncIterator[Any]]
    on_crash: CrashPolicy


async def run_loop(loop: CustomLoop, run: RunInput[Any]) -> AsyncGenerator[MessageChunk | Done]:
    """The loop's output as chunks: strings become text parts, the usages are summed up in the `Done`.

    Raises `LoopError` if the loop yields something that is not part of a message, and what the loop raises.
    """
    outputs = loop.function(run)
    if not isinstance(outputs, AsyncGenerator):
        outputs = _as_generator(outputs)
    # Closed here, so that an interrupted loop ends within its run.
    async with aclosing(outputs), aclosing(_to_chunks(outputs)) as message_chunks:
        async for chunk in message_chunks:
            yield chunk


async def _as_generator(outputs: AsyncIterator[Any]) -> AsyncGenerator[Any]:
    async for output in outputs:
        yield output


async def _to_chunks(outputs: AsyncIterator[Any]) -> AsyncGenerator[MessageChunk | Done]:
    texts = 0
    in_text = False
    usages: list[Usage] = []
    async for output in outputs:
        if isinstance(output, str):
            if not in_text:
                texts, in_text = texts + 1, True
                yield chunks.TextStart(id=f"own{texts}")
            if output:
                yield chunks.TextDelta(id=f"own{texts}", delta=output)
            continue
        if in_text:
            in_text = False
            yield chunks.TextEnd(id=f"own{texts}")
        if isinstance(output, Usage):
            usages.append(output)
        else:
            yield _check_output(output)
    if in_text:
        yield chunks.TextEnd(id=f"own{texts}")
    named = [usage for usage in usages if isinstance(usage, ModelUsage)]
    yield Done("stop", sum(usages, Usage()), usages if named else ())


_MESSAGE_CHUNKS: tuple[type[Any], ...] = tuple(MessageChunk.__value__.__args__)


def _check_output(output: Any) -> MessageChunk:
    """The chunk; a tool's is marked as executed by the provider, so that nobody else runs the tool."""
    if isinstance(output, OwnCall):
        # False, not absent: the loop may have shown the call before it found out that it is not its own.
        return chunks.ToolInputAvailable(
            tool_call_id=output.id,
            tool_name=output.tool,
            input=output.input,
            dynamic=True,
            provider_executed=False,
        )
    if not isinstance(output, _MESSAGE_CHUNKS):
        raise LoopError(f"The agent emitted {type(output).__name__}, which is no part of a message.")
    chunk: MessageChunk = output
    match chunk:
        case (
            chunks.ToolInputStart()
            | chunks.ToolInputAvailable()
            | chunks.ToolInputError()
            | chunks.ToolOutputAvailable()
            | chunks.ToolOutputError()
        ):
            return msgspec.structs.replace(chunk, provider_executed=True, dynamic=True)
        case _:
            return chunk
