"""Reads a stream to its end, for APIs that return one complete answer: the message, why it ended, its
tokens.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_gateway.streaming.event_reader import decode_events
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import Fold, MessageDict
from rejoin_protocol.events.typed_output import find_output

type OnEvents = Callable[[Sequence[Chunk]], Awaitable[None]]
"""Called with the events as they arrive, and with none at each keep-alive."""


class AnswerUsage(msgspec.Struct, frozen=True):
    """Tokens of a message."""

    input: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """Input and output together."""
        return self.input + self.output


class CollectedAnswer(msgspec.Struct, frozen=True):
    """A complete answer. `error`: text of the failure, written for the client."""

    message: MessageDict
    finish_reason: str
    error: str | None = None

    @property
    def text(self) -> str:
        """The message's text, without reasoning; of a typed answer its JSON."""
        output = find_output(self.message)
        if output is not UNSET:
            return msgspec.json.encode(output).decode()
        parts = self.message.get("parts", ())
        return "".join(part["text"] for part in parts if part["type"] == "text")

    @property
    def usage(self) -> AnswerUsage:
        """The message's tokens; 0 if the model reported none."""
        metadata: Any = self.message.get("metadata")
        usage = metadata.get("usage", {}) if isinstance(metadata, dict) else {}
        return AnswerUsage(usage.get("inputTokens", 0), usage.get("outputTokens", 0))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The message's tool parts."""
        return [part for part in self.message.get("parts", ()) if "toolCallId" in part]


class _EarlierCalls:
    """Tells results and decisions of calls that were made before the stream began: a turn begins with these,
    and the stream has no part for them.
    """

    def __init__(self) -> None:
        self._known: set[str] = set()

    def has(self, chunk: Chunk) -> bool:
        """Whether the next event is about such a call."""
        match chunk:
            case (
                chunks.ToolInputStart(tool_call_id=id)
                | chunks.ToolInputAvailable(tool_call_id=id)
                | chunks.ToolInputError(tool_call_id=id)
            ):
                self._known.add(id)
            case chunks.ToolApprovalRequest(approval_id=id):
                self._known.add(id)
            case (
                chunks.ToolOutputAvailable(tool_call_id=id)
                | chunks.ToolOutputError(tool_call_id=id)
                | chunks.ToolOutputDenied(tool_call_id=id)
                | chunks.ToolApprovalResponse(approval_id=id)
            ):
                return id not in self._known
            case _:
                pass
        return False


async def collect_answer(replay: Replay, on_events: OnEvents | None = None) -> CollectedAnswer:
    """Read a stream to its end. Raises as `Replay.open` and its frames."""
    fold, earlier = Fold(), _EarlierCalls()
    finish_reason, error = "other", None
    async with replay.open() as frames:
        async for events in decode_events(frames):
            if on_events is not None:
                await on_events(events)
            for chunk in events:
                if not earlier.has(chunk):
                    fold.apply(chunk)
                match chunk:
                    case chunks.Finish(finish_reason=str(reason)):
                        finish_reason = reason
                    case chunks.Error(error_text=text):
                        error = text
                    case _:
                        pass
    return CollectedAnswer(fold.message, finish_reason, error)
