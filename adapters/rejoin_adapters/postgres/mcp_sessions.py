"""`McpSessions` in PostgreSQL."""

from rejoin_adapters.ports.mcp_sessions import EMPTY_MAX, request_prefix
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import AgentName, RunId, SessionId


class PostgresMcpSessions:
    """The adapter of `McpSessions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, owner: Owner, session: SessionId, agent: AgentName) -> None:
        """See `McpSessions`."""
        query = """
            with home as (insert into tenants (id) values ($1) on conflict do nothing),
            old as (
              delete from sessions where tenant_id = $1 and id in (
                select id from sessions
                where tenant_id = $1 and user_id is not distinct from $2 and next_position = 0
                  and metadata->>'mcp' = 'open'
                order by created_at desc offset $5 - 1 for update skip locked))
            insert into sessions (tenant_id, id, agent, user_id, metadata)
            values ($1, session_key($1, $2, $3), $4, $2, '{"mcp": "open"}')
            on conflict do nothing returning to_json(id)
        """
        created = await self._database.fetch_text(query, owner.tenant, owner.user, session, agent, EMPTY_MAX)
        if created is None:
            raise Conflict(f"a session {session!r} exists already")

    async def find_agent(self, owner: Owner, session: SessionId) -> AgentName | None:
        """See `McpSessions`."""
        query = """
            select to_json(agent) from sessions
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
              and metadata->>'mcp' = 'open'
        """
        return await self._database.find_json(AgentName, query, owner.tenant, owner.user, session)

    async def end(self, owner: Owner, session: SessionId) -> bool:
        """See `McpSessions`."""
        query = """
            with gone as (
              delete from sessions s
              where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
                and metadata->>'mcp' = 'open'
                and not exists (
                  select from messages m where m.tenant_id = s.tenant_id and m.session_id = s.id)
              returning id),
            ended as (
              update sessions s set metadata = '{"mcp": "ended"}'
              where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
                and metadata->>'mcp' = 'open'
                and exists (
                  select from messages m where m.tenant_id = s.tenant_id and m.session_id = s.id)
              returning id)
            select to_json(id) from gone union all select to_json(id) from ended
        """
        return await self._database.fetch_text(query, owner.tenant, owner.user, session) is not None

    async def find_run(self, owner: Owner, session: SessionId, request: str) -> RunId | None:
        """See `McpSessions`."""
        query = """
            select to_json(id) from runs
            where tenant_id = $1 and ($2::text is null or user_id = $2)
              and session_id = session_key($1, $2, $3) and starts_with(key, $4)
            order by position desc limit 1
        """
        return await self._database.find_json(
            RunId, query, owner.tenant, owner.user, session, request_prefix(request)
        )
