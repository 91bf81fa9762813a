"""`RunCounts` in PostgreSQL."""

from collections.abc import Sequence
from datetime import date

from rejoin_adapters.ports.run_counts import USAGE_BATCH_MAX, USAGE_ROWS_MAX
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.store_types import RunCount
from rejoin_adapters.usage_types import UsageFilter, UsageRow


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

    async def sum_usage(self, wanted: UsageFilter) -> Sequence[UsageRow]:
        """See `RunCounts`."""
        parts = [key for key in ("day", "tenant", "agent", "model") if key in wanted.by]
        named = "".join(f"'{key}', {key}, " for key in parts)
        query = f"""
            select coalesce(json_agg(json_build_object(
              {named}'input_tokens', tokens_in, 'output_tokens', tokens_out, 'unpriced_tokens', unpriced,
              'cost_nano_usd', case when unpriced < tokens_in + tokens_out or cost > 0 then cost end)), '[]')
            from (
              select {"".join(f"{key}, " for key in parts)}sum(input_tokens)::bigint as tokens_in,
                sum(output_tokens)::bigint as tokens_out, sum(unpriced_tokens)::bigint as unpriced,
                sum(cost_nano_usd)::bigint as cost
              from (select *, tenant_id as tenant from usage_days) days
              where day between $1 and $2 and ($3::text is null or tenant_id = $3)
                and ($4::text is null or agent = $4)
              group by {", ".join(parts) or "()"} having count(*) > 0
              order by {"day desc, " if "day" in parts else ""}sum(input_tokens + output_tokens) desc
                {"".join(f", {key}" for key in parts if key != "day")}
              limit {USAGE_ROWS_MAX}) used
        """  # noqa: S608 - all parts are constants
        arguments = wanted.since, wanted.until, wanted.tenant, wanted.agent
        return await self._database.fetch_json(list[UsageRow], query, *arguments)

    async def delete_usage(self, before: date) -> int:
        """See `RunCounts`."""
        query = """
            with gone as (
              delete from usage_days where ctid = any (array(
                select ctid from usage_days where day < $1 limit $2))
              returning 1)
            select json_build_array(count(*)) from gone
        """
        (count,) = await self._database.fetch_json(tuple[int], query, before, USAGE_BATCH_MAX)
        return count
