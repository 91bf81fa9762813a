"""Sessions that a client opens before it says anything, and ends when it leaves: those of MCP.

Owns the mark that tells them from other sessions, `{"mcp": "open"}` in a session's metadata, and the way from
a client's own name for a request to its run. What is said in them is the `RunStore`'s, as in any session: an
ended one keeps its messages and its open questions, and is no place for requests any more.
"""

import hashlib

from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import AgentName, RunId, SessionId

from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.records import Owner


def request_key(request: str, nonce: str) -> str:
    """The key of a run, by what its client calls the request: to be found by that name, and never twice the
    same, because a client may begin to count again.
    """
    return f"{_named(request)}{nonce}"


def _named(request: str) -> str:
    return f"mcp:{hashlib.sha256(request.encode()).hexdigest()[:32]}:"


class PostgresMcpSessions:
    """See the module. A method is one transaction, and finds only what is its owner's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def open(self, owner: Owner, session: SessionId, agent: AgentName) -> None:
        """Make a session with nothing in it. Raises `Conflict` if there is one of this id."""
        query = """
            with home as (insert into tenants (id) values ($1) on conflict do nothing)
            insert into sessions (tenant_id, id, agent, user_id, metadata)
            values ($1, $3, $4, $2, '{"mcp": "open"}')
            on conflict do nothing returning to_json(id)
        """
        made = await self._database.value(query, owner.tenant, owner.user, session, agent)
        if made is None:
            raise Conflict(f"there is a session {session!r} already")

    async def agent(self, owner: Owner, session: SessionId) -> AgentName | None:
        """The agent of an open session; None if there is none, or if it has ended."""
        query = """
            select to_json(agent) from sessions
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
              and metadata->>'mcp' = 'open'
        """
        return await self._database.find(AgentName, query, owner.tenant, owner.user, session)

    async def end(self, owner: Owner, session: SessionId) -> bool:
        """Whether it was open. One in which nothing was said leaves nothing behind."""
        query = """
            with gone as (
              delete from sessions s
              where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
                and metadata->>'mcp' = 'open'
                and not exists (
                  select from messages m where m.tenant_id = s.tenant_id and m.session_id = s.id)
              returning id),
            ended as (
              update sessions s set metadata = '{"mcp": "ended"}'
              where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
                and metadata->>'mcp' = 'open'
                and exists (
                  select from messages m where m.tenant_id = s.tenant_id and m.session_id = s.id)
              returning id)
            select to_json(id) from gone union all select to_json(id) from ended
        """
        return await self._database.value(query, owner.tenant, owner.user, session) is not None

    async def run(self, owner: Owner, session: SessionId, request: str) -> RunId | None:
        """The newest run that was made for a request of this name."""
        query = """
            select to_json(id) from runs
            where tenant_id = $1 and ($2::text is null or user_id = $2) and session_id = $3
              and starts_with(key, $4)
            order by position desc limit 1
        """
        return await self._database.find(RunId, query, owner.tenant, owner.user, session, _named(request))
