"""`RunCounts` in memory, over the rows of a `MemoryDatabase`."""

from collections.abc import Sequence
from datetime import date
from itertools import groupby

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.rows import RunRow
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.ports.run_counts import USAGE_ROWS_MAX
from rejoin_adapters.store_types import RunCount
from rejoin_adapters.usage_types import UsageFilter, UsageRow, add_usage
from rejoin_protocol.ids import AgentName, TenantId


class MemoryRunCounts:
    """`RunCounts` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def sum_usage(self, wanted: UsageFilter) -> Sequence[UsageRow]:
        """See `RunCounts`."""
        sums: dict[tuple[date | None, AgentName | None, str | None, TenantId | None], UsageRow] = {}
        for (tenant, day, agent, model), row in self._database.usage_days.items():
            if not wanted.since <= day <= wanted.until:
                continue
            if wanted.tenant not in {None, tenant} or wanted.agent not in {None, agent}:
                continue
            key = (
                day if "day" in wanted.by else None,
                agent if "agent" in wanted.by else None,
                model if "model" in wanted.by else None,
                tenant if "tenant" in wanted.by else None,
            )
            sums[key] = add_usage(sums.get(key, UsageRow(0, 0, 0, None, *key)), row)

        def order(row: UsageRow) -> tuple[int, int, str, str, str]:
            day = 0 if row.day is None else row.day.toordinal()
            tokens = row.input_tokens + row.output_tokens
            return -day, -tokens, row.tenant or "", row.agent or "", row.model or ""

        return sorted(sums.values(), key=order)[:USAGE_ROWS_MAX]

    async def delete_usage(self, before: date) -> int:
        """See `RunCounts`."""
        old = [key for key in self._database.usage_days if key[1] < before]
        for key in old:
            del self._database.usage_days[key]
        return len(old)

    async def count_busy(self) -> Sequence[RunCount]:
        """See `RunCounts`."""

        def kind(run: RunRow) -> tuple[str, str]:
            return run.row.agent, run.row.state

        ready = sorted((run for run in self._database.runs.values() if run.busy and run.row.ready), key=kind)
        return [
            RunCount(agent, state, len(runs), _oldest_wait_s(runs))
            for (agent, state), group in groupby(ready, kind)
            if (runs := list(group))
        ]


def _oldest_wait_s(runs: Sequence[RunRow]) -> float | None:
    due = [run.due_at for run in runs if run.due_at is not None]
    return (now_utc() - min(due)).total_seconds() if due else None
