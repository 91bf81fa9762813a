"""The part of `RunStore` in PostgreSQL that lists runs for those who operate them."""

from collections.abc import Sequence
from typing import Any

from rejoin_adapters.console_types import (
    COUNTED_MAX,
    ERROR_KIND_CHARS_MAX,
    ERRORS_MAX,
    OverviewFilter,
    RunOverview,
)
from rejoin_adapters.postgres.conditions import given_conditions
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

OVERVIEW = """
    with unfinished as (
      (select agent, state,
        coalesce(due_at, case state when 'queued' then created_at else started_at end) as since
      from runs where tenant_id = $1 and {owned} and state in ('queued', 'running') and not taken limit $4)
      union all
      (select agent, state, updated_at from runs
      where tenant_id = $1 and {owned} and state = 'suspended' order by id desc limit $4)
    ), recent as materialized (
      select id, agent, state, input_tokens, output_tokens, error, error_code, created_at, started_at
      from runs where tenant_id = $1 and {owned} and id >= $2 and not taken order by id desc limit $4
    ), periods as (
      select date_bin($3, created_at, timestamptz '2000-01-03 00:00:00+00') as start, agent, state,
        count(*) as runs, sum(input_tokens)::bigint as input_tokens,
        sum(output_tokens)::bigint as output_tokens
      from recent group by 1, 2, 3
    ), error_codes as (
      select error_code as code, count(*) as runs, max(id) as last
      from recent where state = 'failed' group by error_code order by runs desc, last desc limit $6
    ), errors as (
      select code, text, count(*) as runs, max(id) as last
      from (
        select id, error_code as code, regexp_replace(
          left(replace(error::text, '\\u0000', '')::json #>> '{{}}', $5), '[0-9]+', '#', 'g') as text
        from recent where state = 'failed' and error is not null) failed
      group by code, text order by runs desc, last desc limit $6
    )
    select json_build_object(
      'unfinished', (select coalesce(json_agg(u), '[]') from (
        select agent, state, count(*) as runs,
          greatest(extract(epoch from clock_timestamp() - min(since)), 0) as longest_s
        from unfinished group by agent, state order by agent, state) u),
      'periods', (select coalesce(json_agg(p order by start, agent, state), '[]') from periods p),
      'error_codes', (select coalesce(json_agg(c order by runs desc, last desc), '[]') from error_codes c),
      'errors', (select coalesce(json_agg(e order by runs desc, last desc), '[]') from errors e),
      'losses', (select coalesce(json_agg(l order by cause), '[]') from (
        select cause, count(*) as attempts from recent join run_losses on run_id = id group by cause) l),
      'counted', (select count(*) from recent),
      'wait_s', (select coalesce(to_json(percentile_cont(array[0.5, 0.95]) within group (
        order by extract(epoch from started_at - created_at)::double precision)), '[]')
        from recent where started_at is not null))
"""


class PostgresRunLists:
    """The methods of `RunStore` that list and describe runs."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def list_runs(
        self, owner: Owner, wanted: RunFilter = ALL_RUNS, limit: int = 20
    ) -> Sequence[RunSummary]:
        """See `RunStore`."""
        values: list[Any] = [owner.tenant, limit]
        filters = (
            ("user_id =", owner.user),
            ("user_id =", wanted.user),
            ("state =", wanted.state),
            ("state = 'failed' and error_code =", wanted.error),
            ("agent =", wanted.agent),
            ("id >=", wanted.since and first_run_id(wanted.since.timestamp())),
            ("id <", wanted.before),
        )
        conditions = ["tenant_id = $1", *given_conditions(values, filters)]
        if wanted.session is not None:
            values += [owner.user, wanted.session]
            conditions.append(f"session_id = session_key($1, ${len(values) - 1}, ${len(values)})")
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

    async def overview(self, owner: Owner, wanted: OverviewFilter) -> RunOverview:
        """See `RunStore`."""
        first = first_run_id(wanted.since.timestamp())
        values: list[Any] = [
            owner.tenant,
            first,
            wanted.period,
            COUNTED_MAX,
            ERROR_KIND_CHARS_MAX,
            ERRORS_MAX,
        ]
        filters = ("user_id =", owner.user), ("agent =", wanted.agent)
        owned = " and ".join(["true", *given_conditions(values, filters)])
        return await self.database.fetch_json(RunOverview, OVERVIEW.format(owned=owned), *values)
