"""Splits a byte stream into server-sent events. Pure.

Its law is the WHATWG's: https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream.
Bytes may be split anywhere, also inside of a character or of a line's end. It never decodes the data.
"""

_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "
EVENT_BYTES_MAX = 64 * 1024 * 1024
"""The most bytes of one event. A model's generated image is the largest that is known."""


class EventTooLong(Exception):
    """An event has more than `EVENT_BYTES_MAX` bytes."""


class EventStreamParser:
    """Call `feed` with every piece of the stream. What follows the last blank line is no event."""

    def __init__(self) -> None:
        self._start: bytes | None = b""
        """The first bytes, as long as they may be those of a byte order mark; None behind them."""
        self._skips_newline = False
        """The piece before ended with a carriage return: a newline that follows belongs to it."""
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that this piece completes; lines of one event are joined by a newline.

        Events without a `data` field are left out. Raises `EventTooLong`.
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
        if b"\n" not in data:  # joined later, so that an event in many pieces costs no square of its length
            if self._size > EVENT_BYTES_MAX:
                raise EventTooLong
            return []
        *events, rest = b"".join(self._pieces).split(b"\n\n")
        self._pieces = [rest]
        self._size = len(rest)
        if self._size > EVENT_BYTES_MAX:
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
