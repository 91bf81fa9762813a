"""A run's log: batches of events, and what travels beside them in one broker header.

Owns the record format and nothing else. The payload is the SSE frames, ready to send; the gateway copies
bytes. What clients must not see (attempts, marks, who may see a batch) is in the header, never in the JSON.
"""

from collections.abc import Iterable, Iterator
from enum import StrEnum

import msgspec

from rejoin_protocol.log.cursor import Cursor

BATCH_EVENTS_MAX = 1_000
BATCH_BYTES_MAX = 256 * 1024
"""A batch is closed before it passes this; only a single larger event makes a larger one."""

_FRAME_END = b"\n\n"
_DATA = b"\ndata: "
_V6_TYPES = frozenset({b"tool-approval-request", b"tool-approval-response", b"tool-output-denied"})
_V7_TYPES = frozenset(
    {b"reset-step", b"tool-approval-response", b"custom", b"reasoning-file", b"steering-message"}
)


class Audience(StrEnum):
    """Who may see a batch's events."""

    ALL = "all"
    OPERATIONS = "op"  # only a request with `x-emit-operations: true`
    V7 = "v7"  # only clients that know the chunk type


class Mark(StrEnum):
    """What a batch says about the run beyond its events."""

    NONE = "-"
    GENERATED = "generated"  # the model's response is complete: this step's tool calls are final
    CALLING = "calling"  # tools that must not be repeated may have been started from here on
    SUSPENDED = "suspended"  # the run waits for a decision; responses end here
    RESTORED = "restored"  # the log begins here again, with the stored message: what was before has expired
    ENDED = "ended"  # the last batch of the run


class Head(msgspec.Struct, frozen=True, array_like=True):
    """The header of a batch.

    `prev`: sequence of the run's previous message, 0 for none: what the append was fenced with.
    `attempt`: whose append it is. `index`: number of the first event in the run. `count`: how many events,
    0 for a takeover that had nothing to say. `operations`, `v7`: events of those audiences before `index`.
    `turn`: how many suspensions are behind it.
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

    def __str__(self) -> str:
        return (
            f"{self.prev} {self.attempt} {self.index} {self.count} "
            f"{self.operations} {self.v7} {self.audience} {self.mark} {self.turn}"
        )


def parse_head(text: str) -> Head:
    """Read a header; words that later versions add at the end are skipped. Raises `ValueError`."""
    prev, attempt, index, count, operations, v7, audience, mark, turn, *_ = text.split(" ")
    return Head(
        int(prev),
        int(attempt),
        int(index),
        int(count),
        int(operations),
        int(v7),
        Audience(audience),
        Mark(mark),
        int(turn),
    )


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One message of a log as it is stored: `seq` is its place in the stream."""

    seq: int
    head: Head
    payload: bytes

    @property
    def end(self) -> int:
        """Index of the event after the last one."""
        return self.head.index + self.head.count


class View(msgspec.Struct, frozen=True):
    """Which events one client sees. `v7`, `v6`: whether it knows the chunk types that these versions of the
    AI SDK brought; one that it does not know would end its stream.
    """

    operations: bool = False
    v7: bool = True
    v6: bool = True

    def sees(self, head: Head) -> bool:
        """Whether a batch is for this client."""
        match head.audience:
            case Audience.ALL:
                return True
            case Audience.OPERATIONS:
                return self.operations
            case Audience.V7:
                return self.v7

    def knows(self, type: bytes) -> bool:
        """Whether this client knows a type of chunk."""
        return (self.v7 or type not in _V7_TYPES) and (self.v6 or type not in _V6_TYPES)

    def count_before(self, head: Head) -> int:
        """How many events before the batch this client sees, if it knows every type."""
        hidden = (0 if self.operations else head.operations) + (0 if self.v7 else head.v7)
        return head.index - hidden

    def count_through(self, head: Head) -> int:
        """How many events up to the end of the batch this client sees, if it knows every type."""
        return self.count_before(head) + (head.count if self.sees(head) else 0)


def encode_frames(events: Iterable[bytes], *, prev: int, index: int) -> bytes:
    """The SSE frames of a batch: `id: <cursor>`, `data: <chunk>`. A chunk's JSON has no raw line break."""
    return b"".join(
        b"id: %d-%d\ndata: %b\n\n" % (prev, number, event) for number, event in enumerate(events, index)
    )


def split_events(record: Record) -> Iterator[bytes]:
    """The chunks of a record as JSON bytes."""
    for frame in record.payload.split(_FRAME_END)[:-1]:
        yield frame.split(_DATA, 1)[1]


def skip_frames(record: Record, count: int) -> bytes:
    """The payload without its first `count` frames."""
    start = 0
    for _ in range(count):
        start = record.payload.index(_FRAME_END, start) + len(_FRAME_END)
    return record.payload[start:]


def contains(record: Record, cursor: Cursor) -> bool:
    """Whether the event that the cursor names is in this record."""
    head = record.head
    return head.prev == cursor.prev and head.index <= cursor.index < record.end
