"""The format of a record: a batch of events as the payload, and its head in one header of the message.

The payload is the events' SSE frames, ready to send, so that a gateway only copies bytes. What clients must
not see (attempt, mark, audience) is in the header and never in the JSON.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec

from rejoin_protocol.log.cursor import Cursor

BATCH_EVENTS_MAX = 1_000
BATCH_BYTES_MAX = 256 * 1024
"""Limits of a batch. Only a batch of one event may have more bytes."""

_FRAME_END = b"\n\n"
_DATA = b"\ndata: "
_V6_TYPES = frozenset({b"tool-approval-request", b"tool-output-denied"})


class Audience(StrEnum):
    """Which clients see the events of a batch."""

    ALL = "all"
    OPERATIONS = "op"  # only a request with `x-emit-operations: true`
    V7 = "v7"  # only clients that asked for the chunk types of AI SDK 7
    RESETS = "resets"  # `reset-step`: not for clients that asked for an older version


class OperationSet(StrEnum):
    """Which operations all clients of a run get: those that the API documents that started it. They get the
    same ones on every route, because a client continues on any route by the number of its events.
    """

    NONE = "none"
    LIFECYCLE = "lifecycle"
    PROGRESS = "progress"

    def audience_of(self, kind: str) -> Audience:
        """Which clients receive an operation of this `type`."""
        return Audience.ALL if kind in _DOCUMENTED[self] else Audience.OPERATIONS


_LIFECYCLE = frozenset({"agent_initializing", "agent_ready", "completion", "error"})
_DOCUMENTED = {
    OperationSet.NONE: frozenset[str](),
    OperationSet.LIFECYCLE: _LIFECYCLE,
    OperationSet.PROGRESS: _LIFECYCLE | {"agent_thinking", "status_update"},
}


class Mark(StrEnum):
    """What a batch means for the run, besides its events."""

    NONE = "-"
    GENERATED = "generated"  # the model's response is complete: this step's tool calls are final
    CHECKED = "checked"  # the approval rules of this step have answered: calls without a request need none
    CALLING = "calling"  # from here on, tools that must not be repeated may have been started
    SUSPENDED = "suspended"  # the run waits for a decision; streaming responses end here
    RESTORED = "restored"  # earlier records have expired: the log starts again with the stored message
    ENDED = "ended"  # the last batch of the run


_AUDIENCES = {str(audience): audience for audience in Audience}
_MARKS = {str(mark): mark for mark in Mark}
"""The enumerations look words up too, and take ten times as long; the constructor raises for unknown ones."""


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The head of a batch.

    `prev`: sequence of the run's previous message, 0 for none: what the append was fenced with.
    `attempt`: whose append it is. `index`: number of the first event in the run. `count`: how many events,
    0 for a takeover that had nothing to say. `turn`: how many suspensions are behind it. `operations`, `v7`,
    `resets`: events of those audiences before `index`.
    """

    prev: int
    attempt: int
    index: int
    count: int
    operations: int = 0
    v7: int = 0
    audience: Audience = Audience.ALL
    mark: Mark = Mark.NONE
    turn: int = 0
    resets: int = 0

    def __str__(self) -> str:
        return (
            f"{self.prev} {self.attempt} {self.index} {self.count} "
            f"{self.operations} {self.v7} {self.audience} {self.mark} {self.turn} "
            f"{self.resets}"
        )


def parse_head(text: str) -> Head:
    """Read a header; words that later versions add at the end are skipped. Raises `ValueError`."""
    prev, attempt, index, count, operations, v7, audience, mark, turn, *more = text.split(" ")
    return Head(
        int(prev),
        int(attempt),
        int(index),
        int(count),
        int(operations),
        int(v7),
        _AUDIENCES.get(audience) or Audience(audience),
        _MARKS.get(mark) or Mark(mark),
        int(turn),
        int(more[0]) if more else 0,
    )


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One stored message of a log. `seq`: its sequence in the stream."""

    seq: int
    head: Head
    payload: bytes

    @property
    def end(self) -> int:
        """Index of the event after the last one."""
        return self.head.index + self.head.count


class View(msgspec.Struct, frozen=True):
    """Which events one client receives. The default is all but the operations that have to be asked for.

    `operations`: those too. `v7`: the chunk types of AI SDK 7. `v6`: those
    of AI SDK 6. `resets`: `reset-step`. A client ends its stream at a type that it does not know.
    """

    operations: bool = False
    v7: bool = True
    v6: bool = True
    resets: bool = True

    def sees(self, head: Head) -> bool:
        """Whether this client sees the events of a batch."""
        match head.audience:
            case Audience.ALL:
                return True
            case Audience.OPERATIONS:
                return self.operations
            case Audience.V7:
                return self.v7
            case Audience.RESETS:
                return self.resets

    def knows(self, type: bytes) -> bool:
        """Whether this client knows a type of chunk that stands in a batch for everybody."""
        return self.v6 or type not in _V6_TYPES

    def count_before(self, head: Head) -> int:
        """How many events before the batch this client sees, if it knows every type."""
        hidden = (
            (0 if self.operations else head.operations)
            + (0 if self.v7 else head.v7)
            + (0 if self.resets else head.resets)
        )
        return head.index - hidden

    def count_through(self, head: Head) -> int:
        """How many events up to the end of the batch this client sees, provided that it knows every chunk
        type.
        """
        return self.count_before(head) + (head.count if self.sees(head) else 0)


def encode_frames(events: Iterable[bytes], *, prev: int, index: int) -> bytes:
    """The SSE frames of a batch: `id: <cursor>`, `data: <chunk>`. JSON contains no raw line break."""
    return b"".join(
        b"id: %d-%d\ndata: %b\n\n" % (prev, number, event) for number, event in enumerate(events, index)
    )


def split_events(record: Record) -> Iterator[bytes]:
    """The events of a record, as JSON."""
    for frame in record.payload.split(_FRAME_END)[:-1]:
        yield frame.split(_DATA, 1)[1]


def skip_frames(record: Record, count: int) -> bytes:
    """The payload without its first `count` frames."""
    start = 0
    for _ in range(count):
        start = record.payload.index(_FRAME_END, start) + len(_FRAME_END)
    return record.payload[start:]


def contains(record: Record, cursor: Cursor) -> bool:
    """Whether the record contains the event at the cursor."""
    head = record.head
    return head.prev == cursor.prev and head.index <= cursor.index < record.end
