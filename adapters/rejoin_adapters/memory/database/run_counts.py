"""`RunCounts` in memory, over the rows of a `MemoryDatabase`."""

from collections.abc import Sequence
from itertools import groupby

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.rows import RunRow
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.store_types import RunCount


class MemoryRunCounts:
    """`RunCounts` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

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
