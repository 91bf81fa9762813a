"""Joins stored and live records of a log to one sequence without gaps, duplicates or reordering.

The usual bug of replay-then-follow: a record appended between the two is missed or comes twice. Therefore
this
module subscribes first, then reads the log from the cursor, then takes the live records. It skips the live
records that it has already read, and checks that every record names its predecessor (`Head.prev`). If one is
missing, it reads the log again before it returns any further record. The newest record can be missing too,
and has no successor that reveals it; so after a period of silence the log is checked for new records.
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import StrEnum
from types import TracebackType
from typing import Self

from rejoin_adapters.ports.run_log import LiveSubscription, RunLog
from rejoin_protocol.errors import Gone
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Mark, Record

TAIL_CHECK_FIRST_S = 0.5
TAIL_CHECK_MAX_S = 10.0


class ResyncReason(StrEnum):
    """Why a reader returns from live records to the log."""

    GAP = "gap"
    """A record was missing."""
    SLOW = "slow"
    """The reader did not take the records in time."""
    AWAY = "away"
    """The connection to the broker was lost, or dropped messages."""


def take_contiguous(seq: int, records: Sequence[Record]) -> tuple[list[Record], bool]:
    """The live `records` that follow on sequence `seq` without a gap, and whether a gap ended them."""
    contiguous: list[Record] = []
    for record in records:
        if record.seq <= seq:
            continue  # read from the log already
        if record.head.prev != seq:
            return contiguous, True
        contiguous.append(record)
        seq = record.seq
    return contiguous, False


class LogTail:
    """A position in a run's log that moves forward, for the time of a block. Use `open_log_tail`. Small: each
    open stream has one.
    """

    __slots__ = (
        "_behind",
        "_following",
        "_index",
        "_log",
        "_on_resync",
        "_restored",
        "_run",
        "_seq",
        "_subscription",
        "_tail_check_s",
    )
    _subscription: LiveSubscription

    def __init__(
        self,
        log: RunLog,
        run: RunId,
        *,
        after: int,
        index: int,
        restored: bool,
        on_resync: Callable[[ResyncReason], None],
    ) -> None:
        self._log = log
        self._run = run
        self._following = log.follow(run)
        self._seq = after
        self._index = index
        self._restored = restored
        self._on_resync = on_resync
        self._behind = True
        """Whether the log may hold records that were neither read nor received live."""
        self._tail_check_s = TAIL_CHECK_FIRST_S

    async def __aenter__(self) -> Self:
        self._subscription = await self._following.__aenter__()
        self._behind = self._seq > 0 or not self._subscription.is_whole
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._following.__aexit__(kind, fault, trace)

    @property
    def caught_up(self) -> bool:
        """Whether the log was read to its end, as far as this reader knows."""
        return not self._behind

    async def next(self, idle_s: float) -> Sequence[Record]:
        """The next records, at least one; or none if nothing was appended for `idle_s`.

        Raises `Gone` if the log no longer holds the next record, and `Unavailable`.
        """
        loop = asyncio.get_running_loop()
        idle_deadline_s = loop.time() + idle_s
        while True:
            records = await self._read_page() if self._behind else self._take_live()
            if records:
                self._tail_check_s = TAIL_CHECK_FIRST_S
                return records
            if self._behind:
                continue
            remaining_s = idle_deadline_s - loop.time()
            if remaining_s <= 0:
                return ()
            if not await self._subscription.wait(min(self._tail_check_s, remaining_s)):
                # Silence can mean that the newest record was lost on its way here. The interval doubles, so
                # that the idle stream of a long tool call costs little.
                self._behind = await self._log.has_records_after(self._run, after=self._seq)
                self._tail_check_s = min(self._tail_check_s * 2, TAIL_CHECK_MAX_S)

    def _take_live(self) -> Sequence[Record]:
        if self._subscription.lost:
            self._on_resync(ResyncReason.SLOW if self._subscription.slow else ResyncReason.AWAY)
            # `take` clears `lost`, before the log is read: what is lost from now on must be noticed again.
            self._subscription.take()
            self._behind = True
            return ()
        records, self._behind = take_contiguous(self._seq, self._subscription.take())
        if self._behind:
            self._on_resync(ResyncReason.GAP)
        return self._advance(records)

    async def _read_page(self) -> Sequence[Record]:
        page = await self._log.read(self._run, after=self._seq)
        # The last page may miss the newest records if a replica answered. They are live records, too: the
        # subscription is older than this read.
        self._behind = page.more
        return self._advance(page.records)

    def _advance(self, records: Sequence[Record]) -> Sequence[Record]:
        for record in records:
            if record.head.mark is Mark.RESTORED and self._restored:
                self._index = record.head.index
            # The log of an expired run starts at a later event than this reader expects.
            if record.head.index != self._index:
                raise Gone("this part of the run is past retention")
            self._index = record.end
            self._seq = record.seq
        return records


def open_log_tail(
    log: RunLog,
    run: RunId,
    *,
    after: int = 0,
    index: int = 0,
    restored: bool = False,
    on_resync: Callable[[ResyncReason], None] = lambda _: None,
) -> LogTail:
    """A run's records behind sequence `after`, where event `index` is expected next; enter it.

    If the log had expired and starts again (`Mark.RESTORED`), it repeats the message from its beginning. A
    reader that has sent part of the message gets `Gone`; one that passes `restored` gets the repetition.
    `on_resync` is called on each return from live records to the log.
    """
    return LogTail(log, run, after=after, index=index, restored=restored, on_resync=on_resync)
