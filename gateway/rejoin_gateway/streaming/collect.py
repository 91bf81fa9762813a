"""A stream read to its end, for those who want one answer: the message, why it ended, and what it cost."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import Fold, UIMessage

from rejoin_gateway.streaming.event_reader import decode_events
from rejoin_gateway.streaming.replay import Replay

type OnEvents = Callable[[Sequence[Chunk]], Awaitable[None]]
"""Told of the events as they come, and of none after a silence."""


class AnswerUsage(msgspec.Struct, frozen=True):
    """Tokens of a message."""

    input: int = 0
    output: int = 0

    @property
    def total(self) -> int:
        """Both."""
        return self.input + self.output


class CollectedAnswer(msgspec.Struct, frozen=True):
    """What a stream said. `error`: what a person may read of the failure."""

    message: UIMessage
    finish_reason: str
    error: str | None = None

    @property
    def text(self) -> str:
        """What the assistant said, without its reasoning."""
        parts = self.message.get("parts", ())
        return "".join(part["text"] for part in parts if part["type"] == "text")

    @property
    def usage(self) -> AnswerUsage:
        """What it cost."""
        said: Any = self.message.get("metadata")
        usage = said.get("usage", {}) if isinstance(said, dict) else {}
        return AnswerUsage(usage.get("inputTokens", 0), usage.get("outputTokens", 0))

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Its tool parts."""
        return [part for part in self.message.get("parts", ()) if "toolCallId" in part]


async def collect_answer(replay: Replay, told: OnEvents | None = None) -> CollectedAnswer:
    """Read a stream to its end. Raises as `Replay.open`."""
    fold = Fold()
    reason, error = "other", None
    async with replay.open() as frames:
        async for events in decode_events(frames):
            if told is not None:
                await told(events)
            for chunk in events:
                fold.apply(chunk)
                match chunk:
                    case chunks.Finish(finish_reason=str(said)):
                        reason = said
                    case chunks.Error(error_text=text):
                        error = text
                    case _:
                        pass
    return CollectedAnswer(fold.message, reason, error)
