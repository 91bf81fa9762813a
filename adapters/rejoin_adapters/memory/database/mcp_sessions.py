"""`McpSessions` in memory, over the rows of a `MemoryDatabase`."""

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.rows import SessionRow
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.ports.mcp_sessions import EMPTY_MAX, request_prefix
from rejoin_adapters.session_keys import check_new
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import AgentName, RunId, SessionId

OPEN, ENDED = {"mcp": "open"}, {"mcp": "ended"}


class MemoryMcpSessions:
    """`McpSessions` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    def _find_open(self, owner: Owner, session: SessionId) -> SessionRow | None:
        row = self._database.find_session(owner, session)
        return row if row is not None and row.metadata == OPEN else None

    async def open(self, owner: Owner, session: SessionId, agent: AgentName) -> None:
        """See `McpSessions`."""
        session = self._database.key(owner, session)
        if (owner.tenant, session) in self._database.sessions:
            raise Conflict(f"a session {session!r} exists already")
        empty = [
            id
            for (tenant, id), row in self._database.sessions.items()
            if (tenant, row.user, row.metadata) == (owner.tenant, owner.user, OPEN) and not row.messages
        ]
        for old in empty[: max(0, len(empty) - EMPTY_MAX + 1)]:
            self._database.delete_session(owner.tenant, old)
        check_new(session, owner.user)
        row = SessionRow(agent, owner.user, now_utc(), now_utc(), metadata=OPEN)
        row.may_start = self._database.may_start
        self._database.sessions[owner.tenant, session] = row

    async def find_agent(self, owner: Owner, session: SessionId) -> AgentName | None:
        """See `McpSessions`."""
        row = self._find_open(owner, session)
        return None if row is None else row.agent

    async def end(self, owner: Owner, session: SessionId) -> bool:
        """See `McpSessions`."""
        row = self._find_open(owner, session)
        if row is None:
            return False
        if row.messages:
            row.metadata = ENDED
        else:
            self._database.delete_session(owner.tenant, self._database.key(owner, session))
        return True

    async def find_run(self, owner: Owner, session: SessionId, request: str) -> RunId | None:
        """See `McpSessions`."""
        row, prefix = self._database.find_session(owner, session), request_prefix(request)
        runs = [] if row is None else [run for run in row.runs if run.key is not None]
        return next((run.row.id for run in reversed(runs) if (run.key or "").startswith(prefix)), None)
