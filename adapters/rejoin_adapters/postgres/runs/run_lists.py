"""The part of `RunStore` in PostgreSQL that lists runs for those who operate them."""

from collections.abc import Sequence
from typing import Any

from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.postgres.runs.owner_columns import owner_columns
from rejoin_adapters.session_keys import named_summary
from rejoin_adapters.store_types import (
    ALL_RUNS,
    Owner,
    RunFilter,
    RunSummary,
)
from rejoin_protocol.ids import RunId, first_run_id


class PostgresRunLists:
    """The methods of `RunStore` that list and describe runs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def list_runs(
        self, owner: Owner, wanted: RunFilter = ALL_RUNS, limit: int = 20
    ) -> Sequence[RunSummary]:
        """See `RunStore`."""
        values: list[Any] = [owner.tenant, limit]
        conditions = ["tenant_id = $1"]

        def add(condition: str, value: Any) -> None:
            if value is not None:
                values.append(value)
                conditions.append(condition.replace("?", f"${len(values)}"))

        add("user_id = ?", owner.user)
        add("user_id = ?", wanted.user)
        add("state = ?", wanted.state)
        add("agent = ?", wanted.agent)
        add("id >= ?", wanted.since and first_run_id(wanted.since.timestamp()))
        add("id < ?", wanted.before)
        if wanted.session is not None:
            values += [owner.user, wanted.session]
            conditions.append(f"session_id = session_key($1, ${len(values) - 1}, ${len(values)})")
        # Each filter has its own text, so that the database plans with the indexes that suit it.
        query = f"""
            select coalesce(json_agg(listed_json(r::runs) order by id desc), '[]')
            from (select * from runs where {" and ".join(conditions)} order by id desc limit $2) r
        """  # noqa: S608 - all parts are constants
        runs = await self.database.fetch_json(list[RunSummary], query, *values)
        return [named_summary(owner, run) for run in runs]

    async def run_summary(self, owner: Owner, run: RunId) -> RunSummary | None:
        """See `RunStore`."""
        query = """
            select listed_json(r) from runs r
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        found = await self.database.find_json(RunSummary, query, *owner_columns(owner), run)
        return found and named_summary(owner, found)
