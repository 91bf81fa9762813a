"""Segments: copies of a run's records, many in one message, for who reads many of them. Pure.

A message costs its reader what a hundred small records in a larger one do. So who writes a log also stores,
now and then, what it has just written as one message beside it. A segment is a copy and never the truth: it
holds records whose appends were acknowledged, so one that is there is right, whoever wrote it, and one that
is missing costs time and nothing else. Nothing waits for a segment, and nothing is decided by one.

Layout: a MessagePack array of `log.Record`, each an array of its fields, of which the second, `log.Head`, is
one too. Readers skip fields that later versions add at the end.
"""

from collections.abc import Iterable, Sequence

import msgspec

from rejoin_protocol.log.record import Record

RECORDS = 128
"""In one segment. Fewer, and it is hardly cheaper than they are; more, and more of a log's end is in none."""
BYTES_MAX = 64 * 1024
"""Records that pass this before they are so many stay as they are: they are dear to copy, and cheap to read
for what they bring. It also bounds what a writer keeps."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode


class SegmentBuilder:
    """The newest records of a log that no segment has yet."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._records: list[Record] = []
        self._bytes = 0

    def add(self, record: Record) -> Sequence[Record]:
        """The next record, behind the one before. The records for a segment as soon as it is complete; else
        none.
        """
        self._records.append(record)
        self._bytes += len(record.payload)
        records = self._records
        if self._bytes > BYTES_MAX:
            self._clear()
        elif len(records) == RECORDS:
            self._clear()
            return records
        return ()


def pack(records: Sequence[Record]) -> bytes:
    """Consecutive records as a segment."""
    return _encode(records)


def records_after(seq: int, segments: Iterable[bytes]) -> list[Record]:
    """The records that follow on sequence `seq`, as far as these segments have them without a hole. A segment
    that cannot be read is one.
    """
    found: list[Record] = []
    for segment in segments:
        try:
            records = _decode(segment)
        except msgspec.DecodeError:
            return found
        for record in records:
            if record.seq <= seq:
                continue
            if record.head.prev != seq:
                return found
            found.append(record)
            seq = record.seq
    return found
