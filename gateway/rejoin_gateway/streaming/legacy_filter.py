"""What a client from before v7 of the AI SDK sees of a run's log. Pure.

Such a client does not know `reset-step`, so it cannot drop what a dead runner has left of a step: that must
never reach it twice. What is voided when it asks is left out of what it gets; what is voided while it
listens breaks its response, and it asks again. The chunk types that it does not know are left out as well.
"""

from collections.abc import Iterator, Sequence

import msgspec
from rejoin_protocol.errors import Gone
from rejoin_protocol.log.cursor import Cursor
from rejoin_protocol.log.record import Record, View

_FRAME_END = b"\n\n"
_TYPE = b'\ndata: {"type":"'


class VoidedRange(msgspec.Struct, frozen=True):
    """What one attempt left of a step: the events behind `after`, up to the `reset-step` at `until`."""

    after: Cursor
    until: Cursor

    def holds(self, cursor: Cursor) -> bool:
        """Whether an event is one of them."""
        return _place(self.after) < _place(cursor) < _place(self.until)


class VoidedRanges:
    """Finds them in a log whose records are read to it in order, from its beginning."""

    def __init__(self) -> None:
        self.found: list[VoidedRange] = []
        self._begin = Cursor(0, 0)

    def read(self, record: Record) -> None:
        """The next record."""
        for cursor, type, _ in _events(record):
            if type == b"reset-step":
                self.found.append(VoidedRange(self._begin, cursor))
                self._begin = cursor
            elif type == b"start-step":
                self._begin = cursor


class LegacyFilter(msgspec.Struct, frozen=True):
    """A log without what is voided, for a client's `view`."""

    view: View
    voids: Sequence[VoidedRange]

    def void_of(self, cursor: Cursor) -> VoidedRange | None:
        """Which attempt an event was voided with."""
        return next((void for void in self.voids if void.holds(cursor)), None)

    def shown(self, record: Record) -> list[tuple[int, bytes]]:
        """The events that the client gets: their numbers in the run, their frames. Raises as `known`."""
        return [(cursor.index, frame) for cursor, frame in self.known(record) if self.void_of(cursor) is None]

    def known(self, record: Record) -> list[tuple[Cursor, bytes]]:
        """The events that the client could have seen, voided or not.

        Raises `Gone` at a `reset-step` that came after the voids were looked for: the client has seen some
        of what it voids.
        """
        known = []
        for cursor, type, frame in _events(record):
            if type == b"reset-step" and all(void.until != cursor for void in self.voids):
                raise Gone("a step was begun again: ask for the message from its beginning")
            if self.view.sees(record.head) and self.view.knows(type):
                known.append((cursor, frame))
        return known


def _place(cursor: Cursor) -> tuple[int, int]:
    return cursor.prev, cursor.index


def _events(record: Record) -> Iterator[tuple[Cursor, bytes, bytes]]:
    """Cursor, chunk type and frame of each event."""
    for index, frame in enumerate(record.payload.split(_FRAME_END)[:-1], record.head.index):
        type = frame.split(_TYPE, 1)[1].split(b'"', 1)[0]
        yield Cursor(record.head.prev, index), type, frame + _FRAME_END
