"""Segments: copies of many records in one message, so that long logs are read faster.

Reading one message costs as much as a hundred small records inside a larger one. The writer of a log
therefore also stores, now and then, its latest records as one message beside the log. A segment is only a
copy: it holds acknowledged records, so an existing segment is right, no matter which runner wrote it, and a
missing one only costs time. Nothing waits for a segment, and nothing is decided by one.

Format: a MessagePack array of `record.Record`, each an array of its fields; the head is an array, too.
Readers ignore fields that later versions append.
"""

from collections.abc import Iterable, Sequence

import msgspec

from rejoin_protocol.log.record import Record

RECORDS = 128
"""Records of one segment. Fewer save little; more leave a longer end of the log without a segment."""
BYTES_MAX = 64 * 1024
"""Records that exceed this before there are enough of them get no segment: large records cost much to copy,
and little to read for each byte. This also bounds the writer's memory.
"""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Record]).decode


class SegmentBuilder:
    """Collects the newest records of a log until they make a segment."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._records: list[Record] = []
        self._bytes = 0

    def add(self, record: Record) -> Sequence[Record]:
        """Add the log's next record. Returns the records of a segment once it is complete, else none."""
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
    """Encode consecutive records as a segment."""
    return _encode(records)


def records_after(seq: int, segments: Iterable[bytes]) -> list[Record]:
    """The records behind sequence `seq` that these segments contain without a gap. A segment that cannot be
    decoded is a gap.
    """
    records_found: list[Record] = []
    for segment in segments:
        try:
            records = _decode(segment)
        except msgspec.DecodeError:
            return records_found
        for record in records:
            if record.seq <= seq:
                continue
            if record.head.prev != seq:
                return records_found
            records_found.append(record)
            seq = record.seq
    return records_found
