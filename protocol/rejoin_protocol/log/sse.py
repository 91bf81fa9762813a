"""Server-sent events around the frames of a log: what a response says besides them, and how to read one.

The frames themselves are made once, when they are appended (`log.frames`).
"""

from collections.abc import Iterator

import msgspec

DONE = b"data: [DONE]\n\n"
"""Ends every complete response."""
KEEP_ALIVE = b": keep-alive\n\n"
"""A comment. Never an event: clients die of a type they do not know."""

HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
    "X-Accel-Buffering": "no",
    "x-vercel-ai-ui-message-stream": "v1",
    "x-vercel-ai-data-stream": "v2",
}


class SseFrame(msgspec.Struct, frozen=True):
    """One event of a stream."""

    id: str
    data: bytes


class SseParser:
    """Turns bytes as they arrive into frames. `feed` may be called with any split of the stream."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[SseFrame]:
        """The frames that `received` completes. Comments are passed over."""
        *blocks, self._rest = (self._rest + received).split(b"\n\n")
        for block in blocks:
            cursor, data = "", []
            for line in block.split(b"\n"):
                field, _, value = line.partition(b":")
                match field:
                    case b"id":
                        cursor = value.strip().decode()
                    case b"data":
                        data.append(value.removeprefix(b" "))
                    case _:
                        pass
            if data:
                yield SseFrame(cursor, b"\n".join(data))
