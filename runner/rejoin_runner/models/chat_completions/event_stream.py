"""Splits a byte stream into server-sent events. Pure.

Specification: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream. The
stream may be cut at any byte, also inside of a character or of a line break. The data is not decoded.
"""

_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "
PROVIDER_EVENT_BYTES_MAX = 64 * 1024 * 1024
"""The size of one event of a model provider. The largest known event is a generated image."""


class EventTooLong(Exception):
    """An event has more than `PROVIDER_EVENT_BYTES_MAX` bytes."""


class EventStreamParser:
    """Call `feed` with every piece of the stream. Bytes after the last blank line are no event."""

    def __init__(self) -> None:
        self._start: bytes | None = b""
        """The stream's first bytes, while they may be the beginning of a byte order mark; then None."""
        self._skips_newline = False
        """The previous piece ended with a carriage return, so a newline at the start of the next one belongs
        to it.
        """
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that this piece completes. A newline joins the data lines of one event.

        Leaves out events without a `data` field. Raises `EventTooLong`.
        """
        if self._start is not None:
            data = self._start + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._start = data
                return []
            self._start = None
            data = data.removeprefix(_BOM)
        if self._skips_newline or b"\r" in data:
            data = self._with_newlines(data)
        self._pieces.append(data)
        self._size += len(data)
        if b"\n" not in data:  # joined later: joining each piece would copy a long event many times
            if self._size > PROVIDER_EVENT_BYTES_MAX:
                raise EventTooLong
            return []
        *events, rest = b"".join(self._pieces).split(b"\n\n")
        self._pieces = [rest]
        self._size = len(rest)
        if self._size > PROVIDER_EVENT_BYTES_MAX:
            raise EventTooLong
        return [found for event in events if (found := _find_data(event)) is not None]

    def _with_newlines(self, data: bytes) -> bytes:
        if self._skips_newline and data:
            data = data.removeprefix(b"\n")
            self._skips_newline = False
        self._skips_newline = self._skips_newline or data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _find_data(event: bytes) -> bytes | None:
    """The data of an event's lines; None if no line has data."""
    if event.startswith(_DATA) and b"\n" not in event:
        return event[len(_DATA) :]
    found: list[bytes] = []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            found.append(value.removeprefix(b" "))
    return b"\n".join(found) if found else None
