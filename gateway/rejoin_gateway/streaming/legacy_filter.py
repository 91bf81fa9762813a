"""The events for clients that do not know `reset-step`, or may not know it. Pure.

After a runner crash the next attempt repeats the interrupted step: the log holds the events of the first
attempt, then `reset-step`, then those of the second. A newer client drops the first ones when it reads
`reset-step`. An older client does not know that chunk and can drop nothing, so it must never receive the
same step twice:

- Events already voided at request time are skipped, with their `reset-step`.
- If events are voided during the stream: a client that said that it is older has its connection broken; a
  client that did not say what it is receives the `reset-step`. Either way an older client's stream ends
  there, and its next one is correct.

Chunk types that the client does not know are left out as well.
"""

from collections.abc import Iterator, Sequence

import msgspec

from rejoin_protocol.errors import Gone
from rejoin_protocol.log.cursor import Cursor
from rejoin_protocol.log.record import Record, View

_FRAME_END = b"\n\n"
_TYPE = b'\ndata: {"type":"'
"""How the data line of a frame begins. A chunk's JSON begins with its type and has no raw line break, so
this cannot match inside a text.
"""


class VoidedRange(msgspec.Struct, frozen=True):
    """Events of one interrupted attempt at a step: after `after`, before the `reset-step` at `until`."""

    after: Cursor
    until: Cursor

    def contains(self, cursor: Cursor) -> bool:
        """Whether the event is one of them."""
        return _order(self.after) < _order(cursor) < _order(self.until)


class VoidedRanges:
    """Finds the voided ranges of a log. Pass it the records in order, from the beginning of the log."""

    def __init__(self) -> None:
        self.ranges: list[VoidedRange] = []
        self._step_start = Cursor(0, 0)

    def add(self, record: Record) -> None:
        """Read the next record."""
        for cursor, type, _ in _events(record):
            if type == b"reset-step":
                self.ranges.append(VoidedRange(self._step_start, cursor))
                self._step_start = cursor
            elif type == b"start-step":
                self._step_start = cursor


class LegacyFilter(msgspec.Struct, frozen=True):
    """Filters the records of a log for a client's `view`. `voided`: the ranges known at request time."""

    view: View
    voided: Sequence[VoidedRange]

    def range_of(self, cursor: Cursor) -> VoidedRange | None:
        """The voided range of an event; None if the event is valid."""
        return next((voided for voided in self.voided if voided.contains(cursor)), None)

    def valid_frames(self, record: Record) -> list[tuple[int, bytes]]:
        """The frames that the client receives, each with its event's index in the run. Raises as
        `visible_frames`.
        """
        return [
            (cursor.index, frame)
            for cursor, frame in self.visible_frames(record)
            if self.range_of(cursor) is None
        ]

    def visible_frames(self, record: Record) -> list[tuple[Cursor, bytes]]:
        """The frames whose type the client knows, voided or not.

        Raises `Gone` at a `reset-step` that is newer than `voided`, for a client that does not know it: the
        client has received events that it voids.
        """
        frames = []
        for cursor, type, frame in _events(record):
            if type == b"reset-step":
                if any(voided.until == cursor for voided in self.voided):
                    continue
                if not self.view.resets:
                    raise Gone("a step was repeated: request the message again from its beginning")
            if self.view.sees(record.head) and self.view.knows(type):
                frames.append((cursor, frame))
        return frames


def _order(cursor: Cursor) -> tuple[int, int]:
    return cursor.prev, cursor.index


def _events(record: Record) -> Iterator[tuple[Cursor, bytes, bytes]]:
    """Cursor, chunk type and frame of each event."""
    for index, frame in enumerate(record.payload.split(_FRAME_END)[:-1], record.head.index):
        type = frame.split(_TYPE, 1)[1].split(b'"', 1)[0]
        yield Cursor(record.head.prev, index), type, frame + _FRAME_END
