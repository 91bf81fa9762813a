"""`RunLog`, adapter and double: with any set of segments a reader gets the log byte for byte."""

import secrets
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.log_tail import open_log_tail
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.run_log import FIRST_RECORDS, LOG_READ_BYTES_MAX, PAGE_RECORDS, JetStreamRunLog
from rejoin_adapters.ports.run_log import RunLog
from rejoin_protocol.broker import subjects as names
from rejoin_protocol.errors import Fenced, Unavailable
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Record
from rejoin_protocol.log.segment import RECORDS, SegmentBuilder

pytest_plugins = ("tests.support.data.log_fixtures",)

IDLE_S = 5.0


@pytest.fixture
def run() -> RunId:
    return fresh()


def fresh() -> RunId:
    return RunId(f"run_{secrets.token_hex(8)}")


async def write(log: RunLog, run: RunId, count: int, *, attempt: int = 1, size: int = 3) -> list[Record]:
    """Append this many records of one event each after the last record."""
    last = await log.last(run)
    prev, index = (last.seq, last.end) if last else (0, 0)
    written = []
    for number in range(index, index + count):
        head, payload = Head(prev, attempt, number, 1), b"%d" % number * size
        prev = await log.append(run, head, payload)
        written.append(Record(prev, head, payload))
    return written


async def seal(log: RunLog, run: RunId, records: Sequence[Record]) -> None:
    """Segments of what a writer has written, as it stores them."""
    gathering = SegmentBuilder()
    for record in records:
        if complete := gathering.add(record):
            await log.add_segment(run, complete)


async def stored(log: RunLog, run: RunId, after: int = 0) -> list[Record]:
    """The records from behind a sequence number to the end."""
    records, more = list[Record](), True
    while more:
        page = await log.read(run, after=records[-1].seq if records else after)
        assert len(page.times) in (0, len(page.records))
        assert sum(len(record.payload) for record in page.records) <= LOG_READ_BYTES_MAX
        records += page.records
        more = page.more
    return records


async def test_with_segments_the_log_is_read_as_it_was_written_from_every_place(
    log: RunLog, run: RunId
) -> None:
    written = await write(log, run, 3 * RECORDS + FIRST_RECORDS + 7)
    await seal(log, run, written)
    for place in range(len(written) + 1):
        after = written[place - 1].seq if place else 0
        assert await stored(log, run, after) == written[place:]


@given(
    st.lists(st.tuples(st.integers(0, 450), st.integers(1, 200)), max_size=5),
    st.integers(0, 449),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_segments_there_are_what_is_read_is_the_log(
    log: RunLog, cuts: list[tuple[int, int]], place: int
) -> None:
    """Segments are missing, overlap, or come late from a writer that was taken over."""
    run = fresh()
    written = await write(log, run, 450)
    for at, count in cuts:
        await log.add_segment(run, written[at : at + count])
    assert await stored(log, run, written[place].seq) == written[place + 1 :]
    assert await stored(log, run) == written
    await log.purge(run)


async def test_a_page_has_no_more_records_than_are_wanted(log: RunLog, run: RunId) -> None:
    written = await write(log, run, 2 * RECORDS + PAGE_RECORDS)
    await seal(log, run, written)
    for count in (1, PAGE_RECORDS):
        page = await log.read(run, after=written[0].seq, records_max=count)
        assert (list(page.records), page.more) == (written[1 : 1 + count], True)


async def test_a_reader_that_follows_sees_every_record_once(log: RunLog, run: RunId) -> None:
    written = await write(log, run, 3 * RECORDS)
    await seal(log, run, written)
    seen: list[Record] = []
    async with open_log_tail(log, run) as records:
        while len(seen) < len(written):
            seen += await records.next(IDLE_S)
        written += (more := await write(log, run, RECORDS))
        await seal(log, run, more)
        while len(seen) < len(written):
            seen += await records.next(IDLE_S)
        assert list(await records.next(0)) == []
    assert seen == written


async def test_a_segment_is_no_record(log: RunLog, run: RunId) -> None:
    """It is not the last record, fences no append, has no sequence of the run, and reaches no follower."""
    async with log.follow(run) as follow:
        written = await write(log, run, RECORDS)
        await log.add_segment(run, written)
        (last,) = await write(log, run, 1)
        assert last.head.prev == written[-1].seq
        assert await log.last(run) == last
        between = range(written[-1].seq + 1, last.seq)
        assert len(between) == 1, "the segment"
        assert [await log.run_at(seq) for seq in between] == [None]
        assert await log.run_at(last.seq) == run
        with pytest.raises(Fenced):
            await log.append(run, Head(between[0], 1, last.end, 1), b"behind a segment")
        seen: list[Record] = []
        while len(seen) <= RECORDS:
            await follow.wait(IDLE_S)
            assert not follow.lost
            seen += follow.take()
        assert seen == [*written, last]


async def test_copies_go_with_their_run_and_with_no_other(log: RunLog, run: RunId) -> None:
    written = await write(log, run, 2 * RECORDS)
    await seal(log, run, written)
    kept = await write(log, other := fresh(), 2 * RECORDS)
    await seal(log, other, kept)
    await log.purge(run)
    assert await stored(log, run) == []
    assert await stored(log, run, written[0].seq) == []
    assert await stored(log, other) == kept
    again = await write(log, run, 2 * RECORDS, attempt=2)  # as the log of a run that is restored begins again
    assert await stored(log, run) == again


async def test_copies_that_outlive_their_records_bring_nothing_back(log: RunLog, run: RunId) -> None:
    """A writer that did not know of the purge had one more on its way."""
    written = await write(log, run, 2 * RECORDS)
    await log.purge(run)
    await seal(log, run, written)
    again = await write(log, run, RECORDS + FIRST_RECORDS + 9, attempt=2)
    assert await stored(log, run) == again


# --------------------------------------------------------------------------------- of the real one alone


async def messages(connection: NatsConnection, run: RunId) -> set[str]:
    """The subjects on which the broker has something of a run."""
    log = JetStreamRunLog(connection, connection)
    subjects = (names.DEFAULT.log(run), names.DEFAULT.segments(run))
    return {one for one in subjects if (await log._get(run, one, 0, 1, LOG_READ_BYTES_MAX))[0]}


async def test_a_purge_leaves_nothing_at_the_broker(nats_url: str, run: RunId) -> None:
    async with nats_connection.connect(nats_url, "segments-purged") as connection:
        log = JetStreamRunLog(connection, connection)
        await seal(log, run, await write(log, run, RECORDS))
        assert await messages(connection, run) == {names.DEFAULT.log(run), names.DEFAULT.segments(run)}
        await log.purge(run)
        assert await messages(connection, run) == set()


async def test_what_is_no_segment_is_read_past(nats_url: str, run: RunId) -> None:
    async with nats_connection.connect(nats_url, "segments-noise") as connection:
        log = JetStreamRunLog(connection, connection)
        written = await write(log, run, 2 * RECORDS)
        await connection.send(names.DEFAULT.segments(run), b"noise")
        await seal(log, run, written)
        assert await stored(log, run) == written


@pytest.mark.parametrize("sizes", [[150] * 6 * RECORDS, [1] * 70 + [80_000] * 5 + [1] * 70, [50_000] * 12])
async def test_a_page_is_within_its_bounds_whatever_is_in_it(
    nats_url: str, run: RunId, sizes: list[int]
) -> None:
    """Small ones with their copies, large ones between small ones, and large ones."""
    async with nats_connection.connect(nats_url, "segments-large") as connection:
        log, written = JetStreamRunLog(connection, connection), list[Record]()
        for size in sizes:
            written += await write(log, run, 1, size=size)
        await seal(log, run, written)
        assert await stored(log, run) == written  # and looks at each page


async def test_a_copy_that_cannot_be_stored_is_nobodys_trouble(nats_url: str, run: RunId) -> None:
    async with nats_connection.connect(nats_url, "segments-unsaid") as connection:
        log = JetStreamRunLog(connection, connection)
        written = await write(log, run, 3)
        await log.add_segment(run, [Record(9, Head(0, 1, 0, 1), bytes(3_000_000))])  # the broker takes 2 MB
        assert await messages(connection, run) == {names.DEFAULT.log(run)}
        assert await stored(log, run) == written
    with pytest.raises(Unavailable):
        await log.last(run)
    await log.add_segment(run, written)
