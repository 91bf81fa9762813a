"""Segments return the records that were added, however they are divided."""

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.log import segment
from rejoin_protocol.log.record import Audience, Head, Mark, Record
from rejoin_protocol.log.segment import BYTES_MAX, RECORDS, SegmentBuilder, pack, records_after

heads = st.builds(
    Head,
    st.integers(0, 2**53),
    st.integers(0, 2**31),
    st.integers(0, 2**31),
    st.integers(0, 1_000),
    st.integers(0, 2**31),
    st.integers(0, 2**31),
    st.sampled_from(Audience),
    st.sampled_from(Mark),
    st.integers(0, 1_000),
)
records = st.builds(Record, st.integers(1, 2**53), heads, st.binary(max_size=300))


def chain(count: int, size: int = 10) -> list[Record]:
    """A log whose sequences have those of others between them."""
    return [
        Record(3 * number, Head(3 * number - 3 if number > 1 else 0, 1, number - 1, 1), b"%d" % number * size)
        for number in range(1, count + 1)
    ]


def after(seq: int, log: Sequence[Record]) -> list[Record]:
    """The records after a sequence number."""
    return [record for record in log if record.seq > seq]


# ------------------------------------------------------------------------------------------------- writing


def gathered(log: Sequence[Record]) -> list[Sequence[Record]]:
    """The segments of a log."""
    gathering = SegmentBuilder()
    return [complete for record in log if (complete := gathering.add(record))]


def test_every_so_many_records_are_a_segment_and_the_rest_is_in_none() -> None:
    log = chain(2 * RECORDS + 5)
    assert gathered(log[: RECORDS - 1]) == []
    assert gathered(log) == [log[:RECORDS], log[RECORDS : 2 * RECORDS]]


@given(st.lists(st.sampled_from([0, 100, BYTES_MAX // RECORDS, BYTES_MAX // 7, BYTES_MAX + 1]), max_size=400))
def test_a_segment_is_consecutive_complete_and_never_larger_than_it_may_be(sizes: list[int]) -> None:
    log = [
        msgspec.structs.replace(one, payload=bytes(size))
        for one, size in zip(chain(400), sizes, strict=False)
    ]
    for records in gathered(log):
        at = log.index(records[0])
        assert records == log[at : at + RECORDS]
        assert len(records) == RECORDS
        assert sum(len(record.payload) for record in records) <= BYTES_MAX


def test_records_that_are_large_stay_as_they_are_and_are_not_kept() -> None:
    gathering, large = SegmentBuilder(), bytes(BYTES_MAX // 4)
    for record in chain(10 * RECORDS):
        assert not gathering.add(msgspec.structs.replace(record, payload=large))
        assert len(gathering._records) <= 4


# ------------------------------------------------------------------------------------------------- reading


@given(st.lists(records, min_size=1, max_size=5))
def test_a_record_is_read_as_it_was_packed(some: list[Record]) -> None:
    for record in some:
        assert records_after(record.head.prev, [pack([record])]) == (
            [record] if record.seq > record.head.prev else []
        )


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=8),
    st.integers(0, 40),
    st.booleans(),
)
def test_whatever_segments_there_are_in_whatever_order_what_is_read_is_the_log(
    cuts: list[tuple[int, int]], place: int, ordered: bool
) -> None:
    """Segments are missing or overlap, and a late one of an earlier writer comes last."""
    log = chain(40)
    segments = [log[at : at + count] for at, count in (sorted(cuts) if ordered else cuts)]
    seq = log[place - 1].seq if place else 0
    rest = after(seq, log)
    found = records_after(seq, [pack(records) for records in segments])
    assert found == rest[: len(found)]
    if ordered and found != rest:
        assert not any(rest[len(found)] in records for records in segments), "it stopped too early"


def test_with_every_segment_there_nothing_is_left_out() -> None:
    log = chain(4 * RECORDS)
    segments = [pack(records) for records in gathered(log)]
    for seq in (0, log[0].seq, log[RECORDS - 1].seq, log[RECORDS].seq, log[-1].seq):
        assert records_after(seq, segments) == after(seq, log)


def test_behind_a_hole_nothing_is_taken() -> None:
    log = chain(30)
    assert records_after(0, [pack(log[:10]), pack(log[11:20])]) == log[:10]
    assert records_after(0, [pack(log[:5] + log[6:10])]) == log[:5]
    assert records_after(0, [pack(log[1:])]) == []
    assert records_after(log[3].seq + 1, [pack(log)]) == [], "there is no such place in this log"


@given(st.binary(max_size=200))
def test_what_cannot_be_read_is_a_hole(noise: bytes) -> None:
    log = chain(20)
    found = records_after(0, [pack(log[:10]), noise, pack(log[10:])])
    assert found[:10] == log[:10]
    assert found in (log[:10], log)  # some noise is an empty segment


def test_what_a_later_version_adds_is_skipped() -> None:
    record = chain(1)[0]
    head = [*msgspec.structs.astuple(record.head), "new"]
    later = msgspec.msgpack.encode([[record.seq, head, record.payload, {"new": True}]])
    assert records_after(0, [later]) == [record]
    unknown = msgspec.msgpack.encode([[record.seq, [*head[:7], "no such mark", 0], record.payload]])
    assert records_after(0, [unknown]) == []


def test_a_segment_of_small_records_is_little_more_than_they_are() -> None:
    log = chain(RECORDS, size=20)
    small = sum(len(record.payload) for record in log)
    assert len(segment.pack(log)) < small + 32 * RECORDS
