"""`RunCounts` in PostgreSQL."""

from collections.abc import Sequence

from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.store_types import RunCount


class PostgresRunCounts:
    """The adapter of `RunCounts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def count_busy(self) -> Sequence[RunCount]:
        """See `RunCounts`."""
        query = """
            select coalesce(json_agg(json_build_object(
              'agent', agent, 'state', state, 'runs', runs, 'waiting_s', waiting_s)), '[]')
            from (
              select agent, state, count(*) as runs,
                extract(epoch from clock_timestamp() - min(due_at)) as waiting_s
              from runs where ready and state in ('queued', 'running')
              group by agent, state) busy
        """
        return await self._database.fetch_json(list[RunCount], query)
