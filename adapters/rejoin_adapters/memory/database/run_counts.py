"""`RunCounts` in memory, over the rows of a `MemoryDatabase`, and the counts of an overview."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

from rejoin_adapters.console_types import (
    ERROR_KIND_CHARS_MAX,
    ERRORS_MAX,
    ErrorCodeRuns,
    ErrorKind,
    LossCount,
    RunOverview,
    RunPeriod,
    UnfinishedRuns,
)
from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.rows import RunRow
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.ports.run_counts import USAGE_ROWS_MAX
from rejoin_adapters.store_types import RunCount
from rejoin_adapters.usage_types import UsageFilter, UsageRow, add_usage
from rejoin_protocol.ids import AgentName, RunId, TenantId
from rejoin_protocol.lifecycle import TERMINAL, State

PERIODS_FROM = datetime(2000, 1, 3, tzinfo=UTC)
"""A Monday; all periods are counted from it."""


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


def count_runs(mine: Sequence[RunRow], recent: Sequence[RunRow], period: timedelta) -> RunOverview:
    """The counts of some runs, and of those of them that are recent, oldest first."""
    waits = sorted((run.started_at - run.created_at).total_seconds() for run in recent if run.started_at)
    causes = Counter(loss.cause for run in recent for loss in run.losses.values() if loss.cause != "failed")
    return RunOverview(
        _count_unfinished([run for run in mine if run.row.state not in TERMINAL]),
        _count_periods(recent, period),
        _count_error_codes(recent),
        _count_errors(recent),
        [LossCount(cause, count) for cause, count in sorted(causes.items())],
        len(recent),
        [_quantile(waits, share) for share in (0.5, 0.95)] if waits else [],
    )


def _count_unfinished(runs: Sequence[RunRow]) -> list[UnfinishedRuns]:
    since: dict[tuple[AgentName, State], list[datetime]] = {}
    for run in runs:
        started = run.created_at if run.queued else run.started_at
        at = run.updated_at if run.row.state is State.SUSPENDED else run.due_at or started or run.created_at
        since.setdefault((run.row.agent, run.row.state), []).append(at)
    return [
        UnfinishedRuns(agent, state, len(times), max(0.0, (now_utc() - min(times)).total_seconds()))
        for (agent, state), times in sorted(since.items())
    ]


def _count_periods(recent: Sequence[RunRow], period: timedelta) -> list[RunPeriod]:
    periods: dict[tuple[datetime, AgentName, State], list[RunRow]] = {}
    for run in recent:
        start = PERIODS_FROM + (run.created_at - PERIODS_FROM) // period * period
        periods.setdefault((start, run.row.agent, run.row.state), []).append(run)
    return [
        RunPeriod(
            *key,
            len(runs),
            sum(run.row.usage.input_tokens for run in runs),
            sum(run.row.usage.output_tokens for run in runs),
        )
        for key, runs in sorted(periods.items())
    ]


def _count_error_codes(recent: Sequence[RunRow]) -> list[ErrorCodeRuns]:
    codes = [(run.row.error_code, run.row.id) for run in recent if run.row.error_code is not None]
    return [ErrorCodeRuns(code, len(runs), max(runs)) for code, runs in _most_frequent(codes)]


def _count_errors(recent: Sequence[RunRow]) -> list[ErrorKind]:
    kinds: list[tuple[tuple[str, str], RunId]] = []
    for run in recent:
        if run.row.error_code is not None and run.row.error is not None:
            text = re.sub("[0-9]+", "#", run.row.error.replace("\0", "")[:ERROR_KIND_CHARS_MAX])
            kinds.append(((run.row.error_code, text), run.row.id))
    return [ErrorKind(*kind, len(runs), max(runs)) for kind, runs in _most_frequent(kinds)]


def _most_frequent[K](kinds: Iterable[tuple[K, RunId]]) -> list[tuple[K, list[RunId]]]:
    """The runs of each kind, the kinds with most runs first; among equals the one with the latest run."""
    groups: dict[K, list[RunId]] = {}
    for kind, run in kinds:
        groups.setdefault(kind, []).append(run)
    return sorted(groups.items(), key=lambda item: (len(item[1]), max(item[1])), reverse=True)[:ERRORS_MAX]


def _quantile(ordered: Sequence[float], share: float) -> float:
    """As PostgreSQL's `percentile_cont`: between the two values around the place."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
