"""The splice: stored records and live ones as one sequence without gap, repetition or disorder.

Every server that replays and then follows has the same bug in waiting: an event appended between the two is
missed, or comes twice. So: follow first, then read the log from the cursor, then take what was followed,
dropping what was read already and checking that each record names the one before it. A hole is filled from
the log before anything goes on. And because the last record can be missed too, with no successor to reveal
it, silence itself is checked.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum

from rejoin_protocol.errors import Gone
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Mark, Record

from rejoin_adapters.ports.run_log import LiveSubscription, RunLog

TAIL_CHECK_FIRST_S = 0.5
TAIL_CHECK_MAX_S = 10.0


class ResyncReason(StrEnum):
    """Why a reader goes back from what comes live to the log."""

    GAP = "gap"
    """A record was missing."""
    SLOW = "slow"
    """More came than waits for one reader."""
    AWAY = "away"
    """The connection to the broker was lost, or its bounds were."""


def take_contiguous(seq: int, records: Sequence[Record]) -> tuple[list[Record], bool]:
    """Which of the live `records` follow on `seq`, and whether there is a hole before the rest."""
    fitting: list[Record] = []
    for record in records:
        if record.seq <= seq:
            continue
        if record.head.prev != seq:
            return fitting, True
        fitting.append(record)
        seq = record.seq
    return fitting, False


class LogTail:
    """A place in a run's log that moves forward. Made by `open_log_tail`."""

    def __init__(
        self,
        log: RunLog,
        run: RunId,
        follow: LiveSubscription,
        *,
        after: int,
        index: int,
        restored: bool,
        stumbled: Callable[[ResyncReason], None],
    ) -> None:
        self._log = log
        self._run = run
        self._follow = follow
        self._seq = after
        self._index = index
        self._restored = restored
        self._stumbled = stumbled
        self._behind = True
        self._quiet_s = TAIL_CHECK_FIRST_S

    @property
    def caught_up(self) -> bool:
        """Whether the log was read to its end, as far as this reader knows."""
        return not self._behind

    async def next(self, idle_s: float) -> Sequence[Record]:
        """The next records, at least one; none if nothing was appended for `idle_s`.

        Raises `Gone` if the log no longer holds what comes next, and `Unavailable`.
        """
        loop = asyncio.get_running_loop()
        idle_at = loop.time() + idle_s
        while True:
            records = await self._read() if self._behind else self._live()
            if records:
                self._quiet_s = TAIL_CHECK_FIRST_S
                return records
            if self._behind:
                continue
            remaining_s = idle_at - loop.time()
            if remaining_s <= 0:
                return ()
            if not await self._follow.wait(min(self._quiet_s, remaining_s)):
                # The tail check: asking finds what no successor would reveal.
                self._behind = await self._log.has_records_after(self._run, after=self._seq)
                self._quiet_s = min(self._quiet_s * 2, TAIL_CHECK_MAX_S)

    def _live(self) -> Sequence[Record]:
        if self._follow.lost:
            self._stumbled(ResyncReason.SLOW if self._follow.slow else ResyncReason.AWAY)
            self._follow.take()
            self._behind = True
            return ()
        records, self._behind = take_contiguous(self._seq, self._follow.take())
        if self._behind:
            self._stumbled(ResyncReason.GAP)
        return self._advance(records)

    async def _read(self) -> Sequence[Record]:
        page = await self._log.read(self._run, after=self._seq)
        self._behind = page.more
        return self._advance(page.records)

    def _advance(self, records: Sequence[Record]) -> Sequence[Record]:
        for record in records:
            if record.head.mark is Mark.RESTORED and self._restored:
                self._index = record.head.index
            if record.head.index != self._index:
                raise Gone("this part of the run is past retention")
            self._index = record.end
            self._seq = record.seq
        return records


@asynccontextmanager
async def open_log_tail(
    log: RunLog,
    run: RunId,
    *,
    after: int = 0,
    index: int = 0,
    restored: bool = False,
    stumbled: Callable[[ResyncReason], None] = lambda _: None,
) -> AsyncIterator[LogTail]:
    """A run's records behind sequence `after`, where event `index` is expected next.

    If the log begins again meanwhile, because it had expired, a reader that had begun before does not want
    the message a second time: it is `Gone`, unless it says `restored`. `stumbled` hears of each return from
    the live records to the log.
    """
    async with log.follow(run) as follow:
        yield LogTail(log, run, follow, after=after, index=index, restored=restored, stumbled=stumbled)
