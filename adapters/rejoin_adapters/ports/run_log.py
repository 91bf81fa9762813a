"""The log of a run: fenced appends, paged reads, live subscriptions."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head, Record

PAGE_CALLS = 16
CALLS_READ_BYTES_MAX = 1024 * 1024
"""Records of models' calls on a page, and their bytes: the last one may exceed them."""


class LogPage(msgspec.Struct, frozen=True):
    """Consecutive records of one log. `more`: whether further records were stored when the page was read.
    `times`: the time at which each record was stored (RFC 3339), or empty if unknown.
    """

    records: Sequence[Record]
    more: bool
    times: Sequence[str] = ()


class StoredCalls(msgspec.Struct, frozen=True):
    """A page of the records of a run's calls of models, as they are stored. `next`: the `after` of the
    following page; 0 on the last one.
    """

    calls: Sequence[bytes]
    next: int


class LiveSubscription(Protocol):
    """The new records of a run as they are appended, in order. Records may be missing; `lost` says so."""

    @property
    def is_whole(self) -> bool:
        """Whether it began before the run's first record: without a loss, nothing is in the log besides."""
        ...

    def take(self) -> list[Record]:
        """Return the records that arrived since the last call, and clear `lost`. Does not wait."""
        ...

    @property
    def slow(self) -> bool:
        """Whether records were lost because this reader did not take them in time."""
        ...

    @property
    def lost(self) -> bool:
        """Whether records may be missing since the last `take`. If so, read the log before continuing."""
        ...

    async def wait(self, seconds: float) -> bool:
        """Wait until records arrive or are lost, at most about `seconds`. Returns whether that happened."""
        ...


class RunLog(Protocol):
    """The logs of all runs."""

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """Append one batch behind the record `head.prev` and return its sequence.

        Retries for as long as the broker is unreachable, so the caller always learns whether the batch is
        stored. Raises `Fenced` if the last record of the log is neither `head.prev` nor this batch.
        """
        ...

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        """Read the records behind sequence `after`, oldest first: at most `records_max`, by default as many
        as one read returns. The newest records may be missing for a moment (a replica may answer).
        """
        ...

    async def add_segment(self, run: RunId, records: Sequence[Record]) -> None:
        """Store a copy of consecutive records in one message, so that `read` needs fewer messages. The
        records must be acknowledged already. Does not wait, and does not report a failure.
        """
        ...

    async def add_model_call(self, run: RunId, step: int, stored: bytes) -> None:
        """Store a record of a call of a model beside the log. Does not wait, and reports no failure but one:
        raises `Invalid` if the broker takes no message of this size.
        """
        ...

    async def model_calls(
        self, run: RunId, *, after: int, step: int | None = None, records_max: int | None = None
    ) -> StoredCalls:
        """Read the records of calls of models behind sequence `after`, oldest first: of one step, or of all.
        At most `records_max`, by default as many as one read returns; not more than the last one makes a
        page larger than `CALLS_READ_BYTES_MAX`.
        """
        ...

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        """Whether the log has records behind sequence `after`. May miss the newest ones for a moment."""
        ...

    async def last(self, run: RunId) -> Record | None:
        """The newest record, read from the leader of the stream."""
        ...

    async def run_at(self, sequence: int) -> RunId | None:
        """The run that owns the record with this sequence, or None if there is no such record."""
        ...

    async def purge(self, run: RunId) -> None:
        """Delete all records of a run, their segments and its recorded calls of models. A runner that still
        appends is fenced by it.
        """
        ...

    async def expect(self, run: RunId) -> None:
        """Begin to follow a run that is not stored yet, for the `follow` that comes soon: that one then has
        nothing to read. Of runs that nobody follows little is kept, for a bounded number of them, and at the
        latest until another run is expected after a while.
        """
        ...

    async def forget(self, run: RunId) -> None:
        """Nobody will follow a run that is expected. Has no effect if somebody follows it."""
        ...

    def follow(self, run: RunId) -> AbstractAsyncContextManager[LiveSubscription]:
        """Subscribe to a run. Every append after entering the context is either delivered or `lost`."""
        ...
