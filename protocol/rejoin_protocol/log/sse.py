"""Server-sent events: what a response contains besides the frames of the log, and a parser for clients.

`encode_frames` in `log/record.py` encodes the frames, once, when they are appended.
"""

from collections.abc import Iterator

import msgspec

DONE_DATA = b"[DONE]"
DONE = b"data: %b\n\n" % DONE_DATA
"""Last frame of a complete response."""
KEEP_ALIVE = b": keep-alive\n\n"
"""An SSE comment. Not an event: AI SDK clients fail on an unknown chunk type."""

STREAM_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",  # a proxy that compresses would hold events back
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
    """Splits received bytes into frames. `feed` accepts any split of the stream."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> Iterator[SseFrame]:
        """The frames that are complete with `received`. Comments are ignored."""
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
