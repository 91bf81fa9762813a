"""`LogTail` returns every record once, in order, though the live feed loses, repeats and reorders."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from random import Random
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoin_adapters.jetstream import live_feed as following
from rejoin_adapters.jetstream import log_tail as spliced
from rejoin_adapters.jetstream.live_feed import LiveReader
from rejoin_adapters.jetstream.log_tail import LogTail, open_log_tail, take_contiguous
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.ports.run_log import LogPage
from rejoin_protocol.errors import Gone
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Record

RUN = RunId("r")
IDLE_S = 5.0
FAULTS = ("as it is", "dropped", "twice", "late", "lost")

faults = st.lists(st.sampled_from(FAULTS), min_size=1, max_size=40)


def chain(*seqs: int) -> list[Record]:
    """Records of one run, each behind the one before."""
    return [
        Record(seq, Head(prev, 1, index, 1), b"")
        for index, (prev, seq) in enumerate(zip([0, *seqs], seqs, strict=False))
    ]


# --------------------------------------------------------------------------------------------------- fit


@given(st.lists(st.integers(0, 5), max_size=12), st.integers(0, 6))
def test_of_anything_that_arrives_only_what_follows_fits(picks: list[int], known: int) -> None:
    records = chain(3, 4, 8, 9, 20, 21)
    seq = ([0] + [record.seq for record in records])[known]
    fitting, hole = take_contiguous(seq, [records[pick] for pick in picks])
    assert fitting == records[known : known + len(fitting)]
    rest = {record.seq for record in (records[pick] for pick in picks)} - {record.seq for record in fitting}
    assert hole or all(one <= (fitting[-1].seq if fitting else seq) for one in rest)
    assert not hole or any(one > seq for one in rest)


def test_records_that_were_seen_are_no_hole() -> None:
    records = chain(3, 4, 8)
    assert take_contiguous(4, records) == (records[2:], False)
    assert take_contiguous(8, records) == ([], False)
    assert take_contiguous(8, []) == ([], False)


def test_a_hole_ends_it_even_if_it_is_filled_later() -> None:
    first, second, third = chain(3, 4, 8)
    assert take_contiguous(0, [first, third, second]) == ([first], True)


# ---------------------------------------------------------------------------------------------- log tail


class Feed(LiveReader):
    """A live feed whose records suffer, each by the next of `faults`; of the last one's nothing will tell."""

    def __init__(self, faults: Iterator[str], random: Random) -> None:
        super().__init__()
        self._faults = faults
        self._random = random
        self._late: list[Record] = []

    def push(self, record: Record) -> None:
        match next(self._faults, "as it is"):
            case "dropped":
                return
            case "late":
                self._late.append(record)
                return
            case "lost":
                self.lose()
            case "twice":
                super().push(record)
                super().push(record)
            case _:
                super().push(record)
        self._random.shuffle(self._late)
        while self._late and self._random.random() < 0.5:
            super().push(self._late.pop())


class Troubled(MemoryRunLog):
    """A log with such feeds, small pages, and reads that may miss the newest record."""

    def __init__(self, faults: Sequence[str], page_max: int, seed: int, *, lag: float = 0.3) -> None:
        super().__init__()
        self._faults = iter(faults)
        self._page_max = page_max
        self._random = Random(seed)
        self._lag = lag
        self.checks = 0

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        self.checks += 1
        await asyncio.sleep(0)
        return await super().has_records_after(run, after=after) and self._random.random() >= self._lag

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        await asyncio.sleep(0)
        page = await super().read(run, after=after, records_max=min(self._page_max, records_max or 256))
        behind = not page.more and self._random.random() < self._lag
        return LogPage(page.records[:-1], more=False) if behind else page

    @asynccontextmanager
    async def follow(self, run: RunId) -> AsyncIterator[LiveReader]:
        feed = Feed(self._faults, self._random)
        readers = self._readers.setdefault(run, set())
        readers.add(feed)
        yield feed
        readers.discard(feed)
        feed.close()

    async def write(self, count: int, prev: int = 0, index: int = 0) -> list[Record]:
        """Append so many records, at an uneven pace, with those of other runs between them."""
        records: list[Record] = []
        for number in range(index, index + count):
            for _ in range(self._random.randrange(4)):
                await asyncio.sleep(0)
            if self._random.random() < 0.3:
                await self.append(RunId(f"other-{self._random.random()}"), Head(0, 1, 0, 1), b"")
            head = Head(prev, 1, number, 1)
            prev = await self.append(RUN, head, b"")
            records.append(Record(prev, head, b""))
        return records


@contextmanager
def impatient() -> Iterator[None]:
    """Silence is checked at once, so that a thousand of them take no time."""
    with (
        mock.patch.object(following, "WAIT_GRANULARITY_S", 0.0005),
        mock.patch.object(spliced, "TAIL_CHECK_FIRST_S", 0.0005),
        mock.patch.object(spliced, "TAIL_CHECK_MAX_S", 0.001),
    ):
        yield


async def read(records: LogTail, count: int) -> list[Record]:
    """So many records, however long it takes."""
    seen: list[Record] = []
    while len(seen) < count:
        seen += await records.next(IDLE_S)
    return seen


@given(faults, st.integers(0, 30), st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
async def test_every_record_comes_once_and_in_order(
    faults: list[str], before: int, count: int, page_max: int, seed: int
) -> None:
    log = Troubled(faults, page_max, seed)
    with impatient():
        async with asyncio.timeout(IDLE_S), asyncio.TaskGroup() as group:
            writing = group.create_task(log.write(count))
            for _ in range(before):
                await asyncio.sleep(0)
            async with open_log_tail(log, RUN) as records:
                seen = await read(records, count)
    assert seen == writing.result()


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_last_record_that_never_arrives_is_found(fault: str) -> None:
    log = Troubled(["as it is"] * 2 + [fault], 256, 1)
    with impatient():
        async with asyncio.timeout(IDLE_S), open_log_tail(log, RUN) as records:
            written = await log.write(3)
            assert await read(records, 3) == written


@pytest.mark.parametrize("fault", ["as it is", "twice", "lost"])
async def test_what_is_known_to_be_there_does_not_wait_for_silence(fault: str) -> None:
    log = Troubled([fault], 3, 1, lag=0)
    with mock.patch.object(spliced, "TAIL_CHECK_FIRST_S", 60):
        async with asyncio.timeout(IDLE_S):
            written = await log.write(9)
            async with open_log_tail(log, RUN) as records:
                assert await read(records, 9) == written
                (last,) = await log.write(1, prev=written[-1].seq, index=9)
                assert await read(records, 1) == [last]


@given(st.integers(0, 8), st.integers(0, 2**32))
async def test_a_splice_begins_anywhere(place: int, seed: int) -> None:
    log = Troubled([], 3, seed)
    written = await log.write(8)
    after, index = (written[place - 1].seq, written[place - 1].end) if place else (0, 0)
    with impatient():
        async with asyncio.timeout(IDLE_S), open_log_tail(log, RUN, after=after, index=index) as records:
            assert await read(records, 8 - place) == written[place:]


async def test_where_nothing_is_appended_nothing_comes_after_the_time_given() -> None:
    log = Troubled([], 256, 1)
    with impatient():
        async with asyncio.timeout(IDLE_S), open_log_tail(log, RUN) as records:
            assert (records.caught_up, await records.next(0.01), records.caught_up) == (False, (), True)
            assert await records.next(0) == ()


async def test_silence_is_checked_less_and_less_often() -> None:
    log = Troubled([], 256, 1)
    with (
        mock.patch.object(following, "WAIT_GRANULARITY_S", 0.001),
        mock.patch.object(spliced, "TAIL_CHECK_FIRST_S", 0.02),
        mock.patch.object(spliced, "TAIL_CHECK_MAX_S", 0.08),
    ):
        async with open_log_tail(log, RUN) as records:
            await records.next(0.5)
            assert 2 <= log.checks <= 9
            await log.write(1)
            assert len(await read(records, 1)) == 1
            checks = log.checks
            await records.next(0.03)
            assert log.checks <= checks + 2


async def test_a_log_that_has_lost_what_comes_next_is_gone() -> None:
    log = MemoryRunLog()
    prev = 0
    for index in range(4):
        prev = await log.append(RUN, Head(prev, 1, index, 1), b"")
    del log._records[RUN][0]
    async with open_log_tail(log, RUN) as records:
        with pytest.raises(Gone):
            await records.next(IDLE_S)
    async with open_log_tail(log, RUN, after=2, index=2) as records:
        assert len(await read(records, 2)) == 2
