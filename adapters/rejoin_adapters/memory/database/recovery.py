"""The part of `RunStore` in memory that finds lost runs and logs to delete."""

from collections.abc import Sequence
from datetime import timedelta

import msgspec

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.postgres.runs.run_recovery import PURGED_AGAIN_S
from rejoin_adapters.store_types import Loss
from rejoin_protocol.ids import RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest


class MemoryRunRecovery:
    """The methods of `RunStore` that a runner's sweep calls."""

    def __init__(self, database: MemoryDatabase | None = None) -> None:
        self.database = database or MemoryDatabase()

    async def release(self, run: RunId, attempt: int, *, failed: bool = False) -> bool:
        """See `RunStore`."""
        row = self.database.runs.get(run)
        if row is None or row.row.attempt != attempt:
            return False
        row.released_attempt = attempt
        if failed:
            row.losses.setdefault(attempt, Loss(attempt, "failed"))
        return True

    async def find_losses(self, run: RunId) -> Sequence[Loss]:
        """See `RunStore`."""
        row = self.database.runs.get(run)
        return [] if row is None else [row.losses[attempt] for attempt in sorted(row.losses)]

    async def report_loss(self, run: RunId, attempt: int | None, loss: Loss) -> None:
        """See `RunStore`."""
        row = self.database.runs.get(run)
        if row is None or row.row.state is not State.RUNNING or attempt not in {None, row.row.attempt}:
            return
        known = row.losses.get(row.row.attempt)
        if known is None or known.cause == "silent":
            row.losses[row.row.attempt] = msgspec.structs.replace(loss, attempt=row.row.attempt)

    async def find_interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """See `RunStore`."""
        return [
            run for run in runs if run not in self.database.runs or self.database.runs[run].row.interrupted
        ]

    async def recover_stranded(
        self, age_s: float, *, republish_interval_s: float = 60.0
    ) -> Sequence[RunRequest]:
        """See `RunStore`."""
        now = now_utc()
        runs = list(self.database.runs.values())
        due = [run for run in runs if run.due_at and (now - run.due_at).total_seconds() > age_s]
        due.sort(key=lambda run: run.due_at or now)
        republished = [
            run
            for run in runs
            if run.row.state is State.RUNNING
            and run.due_at is None
            and (now - run.updated_at).total_seconds() > republish_interval_s
        ]
        for run in republished:
            run.updated_at = now
        return [run.row.request for run in (*due, *republished)] + self._promoted()

    def _promoted(self) -> list[RunRequest]:
        requests = []
        for tenant in {tenant for tenant, _ in self.database.sessions}:
            while (waiting := self.database.waiting(tenant)) and self.database.has_place(tenant):
                waiting[0].start(now_utc())
                requests.append(waiting[0].row.request)
        return requests

    async def logs_to_purge(self, limit: int = 100) -> Sequence[RunId]:
        """See `RunStore`."""
        now = now_utc()
        return [run for run, (due_at, _) in self.database.purges.items() if due_at <= now][:limit]

    async def mark_purged(self, runs: Sequence[RunId]) -> None:
        """See `RunStore`."""
        now = now_utc()
        for run in runs:
            due_at, again = self.database.purges.get(run, (now, False))
            if again and due_at <= now:
                del self.database.purges[run]
            elif run in self.database.purges and not again:
                self.database.purges[run] = now + timedelta(seconds=PURGED_AGAIN_S), True
