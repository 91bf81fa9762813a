"""`SessionStore` in memory, over the rows of a `MemoryDatabase`."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from rejoin_adapters import page_tokens
from rejoin_adapters.console_types import SEARCHED_MAX, SessionFilter
from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.api_keys import record_key
from rejoin_adapters.memory.database.rows import SessionRow, count_fitting
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.page_tokens import MessageToken, SessionToken
from rejoin_adapters.ports.session_store import DELETE_BATCH_MAX, FORKS_MAX, DeletedBatch
from rejoin_adapters.session_keys import check_new, name_of, named_fork, named_session, named_summary
from rejoin_adapters.store_types import (
    Fork,
    ForkOrigin,
    MessagePage,
    Owner,
    RunSummary,
    SessionPage,
    SessionSummary,
    WhenBusy,
)
from rejoin_adapters.usage_types import SessionUsage
from rejoin_protocol.errors import Conflict, Invalid, NotFound
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.limits import PAGE_BYTES_MAX


class MemorySessionStore:
    """`SessionStore` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    def _find(self, owner: Owner, session: SessionId) -> SessionRow:
        row = self._database.find_session(owner, session)
        if row is None:
            raise NotFound(f"there is no session {session!r}")
        return row

    async def list(
        self,
        owner: Owner,
        *,
        agent: AgentName | None = None,
        limit: int = 20,
        before: str | None = None,
        skip: int = 0,
        roots: bool = False,
    ) -> SessionPage:
        """See `SessionStore`."""
        sessions = [
            one
            for one, row in self._stored(owner, agent, before)
            if not (roots and self._is_fork(owner, row))
        ][skip:]
        page = sessions[:limit]
        following = page_tokens.encode(SessionToken.of(page[-1])) if len(sessions) > limit else None
        return SessionPage([named_session(owner, one) for one in page], following)

    def _stored(
        self, owner: Owner, agent: AgentName | None, before: str | None
    ) -> Sequence[tuple[SessionSummary, SessionRow]]:
        """The owner's sessions behind a page token by their stored ids, the last changed first."""
        token = page_tokens.decode(SessionToken, before) if before is not None else None
        end = None if token is None else (token.time_us, token.id)
        found = [
            (_summary(id, row), row)
            for (tenant, id), row in self._database.sessions.items()
            if tenant == owner.tenant and owner.user in {None, row.user} and agent in {None, row.agent}
        ]
        found.sort(key=lambda one: (one[0].updated_at, one[0].id), reverse=True)
        return [one for one in found if end is None or msgspec.structs.astuple(SessionToken.of(one[0])) < end]

    async def search(self, owner: Owner, wanted: SessionFilter, limit: int = 20) -> SessionPage:
        """See `SessionStore`."""
        stored = [
            one
            for one, _ in self._stored(owner, wanted.agent, wanted.before)
            if wanted.user in {None, one.user}
        ]
        looked_at = stored if wanted.text is None else stored[:SEARCHED_MAX]
        openings = await self.openings(Owner(owner.tenant), [one.id for one in looked_at])
        text = (wanted.text or "").lower()
        found = [
            one
            for one in looked_at
            if text in one.id.lower() or text in (one.title or openings.get(one.id, "")).lower()
        ]
        last = None
        if len(found) > limit:
            last = found[limit - 1]
        elif len(stored) >= SEARCHED_MAX and wanted.text is not None:
            last = looked_at[-1]
        page = [named_session(owner, one) for one in found[:limit]]
        return SessionPage(page, None if last is None else page_tokens.encode(SessionToken.of(last)))

    async def count(
        self, owner: Owner, *, agent: AgentName | None = None, count_max: int, roots: bool = False
    ) -> int:
        """See `SessionStore`."""
        page = await self.list(owner, agent=agent, limit=count_max, roots=roots)
        return len(page.sessions)

    async def openings(self, owner: Owner, sessions: Sequence[SessionId]) -> Mapping[SessionId, str]:
        """See `SessionStore`."""
        found = {}
        for session in sessions:
            row = self._database.find_session(owner, session)
            users = [one for one in (row.shown_rows if row else ()) if one.role == "user"]
            parts = users[0].message["parts"] if users else []
            text = "".join(part["text"][:200] for part in parts if part["type"] == "text")
            if text:
                found[session] = text.replace("\0", "\ufffd")
        return found

    def _is_fork(self, owner: Owner, row: SessionRow) -> bool:
        if row.forked_from is None:
            return False
        source = self._database.sessions.get((owner.tenant, row.forked_from[0]))
        return source is not None and source.created_at <= row.created_at

    async def forks(self, owner: Owner, sessions: Sequence[SessionId]) -> Sequence[Fork]:
        """See `SessionStore`."""
        found: dict[tuple[SessionId, SessionId], Fork] = {}
        keys = [self._database.key(owner, id) for id in sessions]
        pairs = [(id, id) for id in keys if self._database.find_session(owner, id) is not None]
        for root, source in pairs:
            for (tenant, id), row in self._database.sessions.items():
                if tenant == owner.tenant and row.forked_from is not None and row.forked_from[0] == source:
                    is_new = id != root and (root, id) not in found and self._is_fork(owner, row)
                    if is_new:
                        pairs.append((root, id))
                        _, before = row.forked_from
                        found[root, id] = Fork(root, id, source, before, row.title, row.updated_at, row.busy)
        rows = self._database.sessions
        ordered = sorted(found.values(), key=lambda fork: (rows[owner.tenant, fork.id].created_at, fork.id))
        return [named_fork(owner, fork) for fork in ordered[:FORKS_MAX]]

    async def origin(self, owner: Owner, session: SessionId) -> ForkOrigin | None:
        """See `SessionStore`."""
        row = self._database.find_session(owner, session)
        if row is None or row.forked_from is None or not self._is_fork(owner, row):
            return None
        shown = [one for one in row.shown_rows if one.role in {"user", "assistant"}]
        source, before = row.forked_from
        return ForkOrigin(
            name_of(owner, source), before, sum(one.created_at < row.created_at for one in shown)
        )

    async def get(self, owner: Owner, session: SessionId) -> SessionSummary | None:
        """See `SessionStore`."""
        row = self._database.find_session(owner, session)
        return None if row is None else _summary(session, row)

    async def messages(
        self,
        owner: Owner,
        session: SessionId,
        *,
        limit: int = 50,
        before: str | None = None,
        skip: int = 0,
    ) -> MessagePage:
        """See `SessionStore`."""
        end = page_tokens.decode(MessageToken, before).position if before is not None else None
        rows = [row for row in self._find(owner, session).shown_rows if end is None or row.position < end]
        rows = rows[: len(rows) - skip] if skip < len(rows) else []
        fitting = count_fitting([row.size_bytes for row in reversed(rows[-limit:])], PAGE_BYTES_MAX)
        page = rows[len(rows) - fitting :]
        older = page_tokens.encode(MessageToken(page[0].position)) if len(rows) > fitting else None
        return MessagePage([row.message for row in page], older, [row.created_at for row in page])

    async def runs(self, owner: Owner, session: SessionId) -> Sequence[RunSummary]:
        """See `SessionStore`."""
        return [named_summary(owner, run.listed) for run in reversed(self._find(owner, session).runs)]

    async def usage(self, owner: Owner, session: SessionId) -> SessionUsage:
        """See `SessionStore`."""
        used = [run.row.usage for run in self._find(owner, session).runs]
        costs = [usage.cost_nano_usd for usage in used if usage.cost_nano_usd is not None]
        return SessionUsage(
            sum(usage.input_tokens for usage in used),
            sum(usage.output_tokens for usage in used),
            len(used),
            sum(costs) if costs else None,
        )

    async def fork(
        self, owner: Owner, session: SessionId, message: MessageId, into: SessionId
    ) -> SessionSummary:
        """See `SessionStore`."""
        source = self._find(owner, session)
        name, session, into = into, self._database.key(owner, session), self._database.key(owner, into)
        cut = source.message(message)
        if cut is None:
            raise NotFound("there is no such message in the session")
        existing = self._database.sessions.get((owner.tenant, into))
        if existing is not None:
            if (existing.forked_from, existing.user) != ((session, message), source.user):
                raise Conflict("the session id is taken")
            return _summary(name, existing)
        now = now_utc()
        fork = SessionRow(
            source.agent,
            source.user,
            now,
            now,
            title=source.title,
            metadata=source.metadata,
            forked_from=(session, message),
        )
        fork.may_start = self._database.may_start
        for row in source.shown_rows:
            if row.position < cut.position:
                fork.next_position = row.position
                fork.place(row.id, row.role, row.body).created_at = row.created_at
        fork.next_position = cut.position
        self._database.check_forks(owner.tenant, source.user)
        check_new(into, source.user)
        self._database.sessions[owner.tenant, into] = fork
        return _summary(name, fork)

    async def rewind(self, owner: Owner, session: SessionId, message: MessageId) -> SessionSummary:
        """See `SessionStore`."""
        row = self._find(owner, session)
        last = row.message(message)
        if last is None:
            raise NotFound("there is no such message in the session")
        row.apply_when_busy(WhenBusy.REJECT, last.position + 1)
        return _summary(session, row)

    async def update(
        self,
        owner: Owner,
        session: SessionId,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Any | UnsetType = UNSET,
    ) -> SessionSummary:
        """See `SessionStore`."""
        row = self._find(owner, session)
        if isinstance(title, str) and "\0" in title:
            raise Invalid("text with a character that cannot be stored")
        if title is not UNSET:
            row.title = title
        if metadata is not UNSET:
            row.metadata = metadata
        return _summary(session, row)

    async def delete(self, owner: Owner, session: SessionId) -> Sequence[RunId] | None:
        """See `SessionStore`."""
        if self._database.find_session(owner, session) is None:
            return None
        key = self._database.key(owner, session)
        self._record_deletion(owner.tenant, [key])
        return self._database.delete_session(owner.tenant, key)

    def _record_deletion(self, tenant: TenantId, sessions: Sequence[SessionId]) -> None:
        if sessions:
            target = sessions[0] if len(sessions) == 1 else f"{len(sessions)} sessions"
            self._database.record_audit(tenant, "sessions.deleted", target, sessions=sorted(sessions)[:100])

    async def delete_user(self, tenant: TenantId, user: UserId) -> int:
        """See `SessionStore`."""
        keys = self._database.api_keys
        for id in [id for id, key in keys.items() if (key.tenant, key.user) == (tenant, user)]:
            record_key(self._database, "key.deleted", keys.pop(id))
        ids = [
            id for (owner, id), row in self._database.sessions.items() if (owner, row.user) == (tenant, user)
        ]
        self._record_deletion(tenant, ids)
        for id in ids:
            self._database.delete_session(tenant, id)
        self._database.client_events = [
            (owner, event)
            for owner, event in self._database.client_events
            if (owner, event.user) != (tenant, user)
        ]
        return len(ids)

    async def delete_untouched(self, age_s: float) -> DeletedBatch:
        """See `SessionStore`."""
        untouched_since = now_utc() - timedelta(seconds=age_s)
        keys = [
            key
            for key, row in self._database.sessions.items()
            if row.updated_at < untouched_since and not row.busy
        ]
        for tenant in {tenant for tenant, _ in keys[:DELETE_BATCH_MAX]}:
            self._record_deletion(tenant, [id for owner, id in keys[:DELETE_BATCH_MAX] if owner == tenant])
        for tenant, session in keys[:DELETE_BATCH_MAX]:
            self._database.delete_session(tenant, session)
        self._database.client_events = [
            row for row in self._database.client_events if row[1].created_at >= untouched_since
        ]
        return DeletedBatch(len(keys[:DELETE_BATCH_MAX]), more=len(keys) > DELETE_BATCH_MAX)


def _summary(id: SessionId, row: SessionRow) -> SessionSummary:
    rows = row.shown_rows
    return SessionSummary(
        id,
        row.agent,
        row.user,
        row.title,
        row.metadata,
        row.created_at,
        row.updated_at,
        len(rows),
        row.busy,
        rows[-1].id if rows else None,
    )
