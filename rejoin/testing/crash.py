"""A runner that crashes at a chosen event, as if its process had been killed."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

import msgspec

from rejoin_adapters.ports.run_log import LiveSubscription, LogPage, RunLog
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Record


class RunnerCrashed(Exception):
    """The runner process has ended."""


class CrashPoint(msgspec.Struct):
    """When the runner crashes, once. `stored`: whether the append with the event still takes effect."""

    event: bytes | None = None
    stored: bool = False

    def is_due(self, payload: bytes) -> bool:
        """Whether to crash at this append."""
        if self.event is None or self.event not in payload:
            return False
        self.event = None
        return True


class CrashingRunLog:
    """The log of a runner that crashes. What the runner has appended before stays, nothing follows."""

    def __init__(self, log: RunLog, crash: CrashPoint) -> None:
        self._log = log
        self._crash = crash

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """See `RunLog`. Raises `RunnerCrashed` at the crash point."""
        crashes = self._crash.is_due(payload)
        if crashes and not self._crash.stored:
            raise RunnerCrashed
        sequence = await self._log.append(run, head, payload)
        if crashes:
            raise RunnerCrashed
        return sequence

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        """See `RunLog`."""
        return await self._log.read(run, after=after, records_max=records_max)

    async def add_segment(self, run: RunId, records: Sequence[Record]) -> None:
        """See `RunLog`."""
        await self._log.add_segment(run, records)

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        """See `RunLog`."""
        return await self._log.has_records_after(run, after=after)

    async def last(self, run: RunId) -> Record | None:
        """See `RunLog`."""
        return await self._log.last(run)

    async def run_at(self, sequence: int) -> RunId | None:
        """See `RunLog`."""
        return await self._log.run_at(sequence)

    async def purge(self, run: RunId) -> None:
        """See `RunLog`."""
        await self._log.purge(run)

    async def expect(self, run: RunId) -> None:
        """See `RunLog`."""
        await self._log.expect(run)

    async def forget(self, run: RunId) -> None:
        """See `RunLog`."""
        await self._log.forget(run)

    def follow(self, run: RunId) -> AbstractAsyncContextManager[LiveSubscription]:
        """See `RunLog`."""
        return self._log.follow(run)
