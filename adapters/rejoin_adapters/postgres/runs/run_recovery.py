"""The part of `RunStore` in PostgreSQL that finds lost runs and logs to delete."""

from collections.abc import Sequence

from rejoin_adapters.postgres.pool import PING, Database
from rejoin_adapters.store_types import Loss
from rejoin_protocol.ids import RunId
from rejoin_protocol.run_request import RunRequest

STRANDED_MAX = 100
"""Stranded runs returned to one sweep."""
PURGED_AGAIN_S = 600.0
"""A log is purged a second time after this time: every runner knows by then that its run was deleted."""


class PostgresRunRecovery:
    """The methods of `RunStore` that a runner's sweep calls, and those about lost attempts."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def release(self, run: RunId, attempt: int, *, failed: bool = False) -> bool:
        """See `RunStore`."""
        query = """
            with released as (
              update runs set released_attempt = attempt where id = $1 and attempt = $2 returning id),
            noted as (
              insert into run_failures (run_id, attempt) select id, $2 from released where $3::boolean
              on conflict do nothing)
            select 'true' from released
        """
        return await self.database.find_json(bool, query, run, attempt, failed) is not None

    async def find_losses(self, run: RunId) -> Sequence[Loss]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(json_build_object(
              'attempt', attempt, 'cause', cause, 'code', code, 'call', call_id, 'seconds', seconds)
              order by attempt), '[]')
            from (
              select attempt, cause, code, call_id, seconds from run_losses where run_id = $1
              union all
              select attempt, 'failed', null, null, null from run_failures where run_id = $1) lost
        """
        return await self.database.fetch_json(list[Loss], query, run)

    async def report_loss(self, run: RunId, attempt: int | None, loss: Loss) -> None:
        """See `RunStore`."""
        query = """
            insert into run_losses (run_id, attempt, cause, code, call_id, seconds)
            select id, attempt, $3, $4, $5, $6 from runs
            where id = $1 and state = 'running' and attempt = coalesce($2::integer, attempt)
            on conflict (run_id, attempt) do update set
              cause = excluded.cause, code = excluded.code, call_id = excluded.call_id,
              seconds = excluded.seconds
            where run_losses.cause = 'silent'
            returning 'true'
        """
        await self.database.fetch_text(query, run, attempt, loss.cause, loss.code, loss.call, loss.seconds)

    async def find_interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(asked.id), '[]')
            from unnest($1::text[]) as asked (id) left join runs r on r.id = asked.id
            where r.id is null or r.interrupted_at is not null
        """
        return await self.database.fetch_json(list[RunId], query, list(runs))

    async def recover_stranded(
        self, age_s: float, *, republish_interval_s: float = 60.0
    ) -> Sequence[RunRequest]:
        """See `RunStore`."""
        query = """
            with republished as (
              update runs set updated_at = clock_timestamp() where id in (
                select id from runs
                where state = 'running' and due_at is null
                  and updated_at < statement_timestamp() - $2 * interval '1 second'
                order by updated_at limit $3 for update skip locked)
              returning *),
            due as (
              select * from runs where due_at < statement_timestamp() - $1 * interval '1 second'
              order by due_at limit $3)
            select coalesce(json_agg(request order by due_at), '[]')
            from (
              select request_json(r::runs) as request, due_at
              from (select * from due union all select * from republished) r
              union all select json_array_elements(promote_waiting($3)), null) requests
        """
        return await self.database.fetch_json(
            list[RunRequest], query, age_s, republish_interval_s, STRANDED_MAX
        )

    async def logs_to_purge(self, limit: int = 100) -> Sequence[RunId]:
        """See `RunStore`."""
        query = """
            select coalesce(json_agg(run_id), '[]') from (
              select run_id from purges where due_at <= statement_timestamp() order by due_at limit $1) due
        """
        return await self.database.fetch_json(list[RunId], query, limit)

    async def mark_purged(self, runs: Sequence[RunId]) -> None:
        """See `RunStore`."""
        query = """
            with over as (
              delete from purges where run_id = any ($1) and again and due_at <= statement_timestamp())
            update purges set again = true, due_at = statement_timestamp() + $2 * interval '1 second'
            where run_id = any ($1) and not again
        """
        await self.database.fetch_text(query, list(runs), PURGED_AGAIN_S)

    async def ping(self) -> None:
        """See `RunStore`."""
        await self.database.fetch_text(PING)
