"""Sessions as lists and people see them: listed, read page by page, forked, rewound, renamed, deleted.

Owns what may be asked of whole sessions besides running them, which is the `RunStore`'s. Everything is
asked on
behalf of an owner: another user's or tenant's session is as if it did not exist. Concrete: it is PostgreSQL.
"""

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId, UserId

from rejoin_adapters.postgres.pool import Database, json_or_null
from rejoin_adapters.records import Owner, RunSummary

RUNS_MAX = 1000
DELETE_BATCH_MAX = 100
"""Sessions that are deleted in one transaction."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

type _Number = Annotated[int, Meta(ge=0, le=2**53)]


class _Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of threads ends."""

    time_us: _Number
    id: SessionId


class _Position(msgspec.Struct, frozen=True, array_like=True):
    """Where a page of messages begins."""

    position: _Number


class SessionSummary(msgspec.Struct, frozen=True):
    """A session at a glance. `messages` and `last_message` leave out the answer of a busy run."""

    id: SessionId
    agent: AgentName
    user: UserId | None
    title: str | None
    metadata: Any
    created_at: datetime
    updated_at: datetime
    messages: int
    busy: bool
    last_message: MessageId | None


class SessionPage(msgspec.Struct, frozen=True):
    """A page of threads. `next` is the token of the following page, or None."""

    threads: Sequence[SessionSummary]
    next: str | None


class MessagePage(msgspec.Struct, frozen=True):
    """A page of messages, oldest first. `next` is the token of the page of older ones, or None."""

    messages: Sequence[UIMessage]
    next: str | None


class SessionUsage(msgspec.Struct, frozen=True):
    """What a session's runs have cost together, in tokens, and how many runs these were."""

    input_tokens: int
    output_tokens: int
    runs: int


class PostgresSessionStore:
    """See the module. A method is one transaction. A page token that is none of ours raises `Invalid`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, owner: Owner, *, agent: AgentName | None = None, limit: int = 20, before: str | None = None
    ) -> SessionPage:
        """The owner's threads, the one that changed last first."""
        place = _place(_Place, before) if before is not None else None
        # Of one user's threads the index knows; it does not know that `$2` is not null.
        whose = "$2::text is null" if owner.user is None else "user_id = $2"
        query = f"""
            select coalesce(json_agg(thread_json(s::sessions) order by updated_at desc, id desc), '[]')
            from (
              select * from sessions
              where tenant_id = $1 and {whose} and ($3::text is null or agent = $3)
                and ($4::bigint is null
                  or (updated_at, id) < (timestamptz 'epoch' + $4 * interval '1 microsecond', $5::text))
              order by updated_at desc, id desc limit $6) s
        """  # noqa: S608
        found = await self._database.get(
            list[SessionSummary],
            query,
            owner.tenant,
            owner.user,
            agent,
            place and place.time_us,
            place and place.id,
            limit + 1,
        )
        if len(found) <= limit:
            return SessionPage(found, None)
        last = found[limit - 1]
        place = _Place((last.updated_at - _EPOCH) // timedelta(microseconds=1), last.id)
        return SessionPage(found[:limit], _token(place))

    async def get(self, owner: Owner, session: SessionId) -> SessionSummary | None:
        """One of them."""
        query = """
            select thread_json(s) from sessions s
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        return await self._database.find(SessionSummary, query, owner.tenant, owner.user, session)

    async def messages(
        self, owner: Owner, session: SessionId, *, limit: int = 50, before: str | None = None
    ) -> MessagePage:
        """The newest page of a session's messages, or the one before. Raises `NotFound`."""
        query = """
            select (
              select coalesce(json_agg(json_build_array(position, body) order by position), '[]')
              from (
                select position, body from shown_messages($1, $3)
                where $4::bigint is null or position < $4
                order by position desc limit $5) m)
            from sessions where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        place = _place(_Position, before).position if before is not None else None
        found = await self._of(list[tuple[int, UIMessage]], query, owner, session, place, limit + 1)
        shown = found[-limit:]
        older = _token(_Position(shown[0][0])) if len(found) > limit else None
        return MessagePage([message for _, message in shown], older)

    async def runs(self, owner: Owner, session: SessionId) -> Sequence[RunSummary]:
        """The session's runs, newest first. Raises `NotFound`."""
        query = """
            select (
              select coalesce(json_agg(listed_json(r::runs) order by position desc), '[]')
              from (
                select * from runs where tenant_id = $1 and session_id = $3
                order by position desc limit $4) r)
            from sessions where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        return await self._of(list[RunSummary], query, owner, session, RUNS_MAX)

    async def usage(self, owner: Owner, session: SessionId) -> SessionUsage:
        """What they have cost. Raises `NotFound`."""
        query = """
            select (
              select json_build_object(
                'input_tokens', coalesce(sum(input_tokens), 0),
                'output_tokens', coalesce(sum(output_tokens), 0),
                'runs', count(*))
              from runs where tenant_id = $1 and session_id = $3)
            from sessions where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
        """
        return await self._of(SessionUsage, query, owner, session)

    async def _of[T](self, kind: type[T], query: str, owner: Owner, session: SessionId, *args: Any) -> T:
        found = await self._database.find(kind, query, owner.tenant, owner.user, session, *args)
        if found is None:
            raise NotFound(f"there is no session {session!r}")
        return found

    async def fork(
        self, owner: Owner, session: SessionId, message: MessageId, into: SessionId
    ) -> SessionSummary:
        """A new session, of the same agent and user, with the messages strictly before `message`.

        Done again with the same arguments it is the same answer. Raises `NotFound`, and `Conflict` if `into`
        exists.
        """
        query = "select fork_session($1, $2, $3, $4, $5)"
        return await self._database.get(
            SessionSummary, query, owner.tenant, owner.user, session, message, into
        )

    async def rewind(self, owner: Owner, session: SessionId, message: MessageId) -> SessionSummary:
        """Drop what was said after a message; a suspended run among it is cancelled. Raises `NotFound`, and
        `Conflict` if the session is busy.
        """
        query = "select rewind_session($1, $2, $3, $4)"
        return await self._database.get(SessionSummary, query, owner.tenant, owner.user, session, message)

    async def update(
        self,
        owner: Owner,
        session: SessionId,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Any | UnsetType = UNSET,
    ) -> SessionSummary:
        """Change what is given; `updated_at`, which orders the list, stays. Raises `NotFound`."""
        query = """
            update sessions s set
              title = case when $4 then $5::text else title end,
              metadata = case when $6 then $7::json else metadata end
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = $3
            returning thread_json(s)
        """
        changes = (
            title is not UNSET,
            None if title is UNSET else title,
            metadata is not UNSET,
            None if metadata is UNSET else json_or_null(metadata),
        )
        return await self._of(SessionSummary, query, owner, session, *changes)

    async def delete(self, owner: Owner, session: SessionId) -> Sequence[RunId] | None:
        """Delete a session and everything that belongs to it; its runs' logs follow in a moment. Returns its
        runs, None if there is no such session. Whoever executes one of them is fenced.
        """
        query = "select delete_session($1, $2, $3)"
        return await self._database.find(list[RunId], query, owner.tenant, owner.user, session)

    async def forget_user(self, tenant: TenantId, user: UserId) -> int:
        """Delete a user's keys, and the sessions as `delete` does, some at a time: if it raises, ask again.
        Returns how many sessions.
        """
        await self._database.value("delete from api_keys where tenant_id = $1 and user_id = $2", tenant, user)
        query = """
            with gone as (
              delete from sessions where tenant_id = $1 and id in (
                select id from sessions where tenant_id = $1 and user_id = $2 order by id limit $3 for update)
              returning id)
            select to_json(count(*)) from gone
        """
        total, deleted = 0, DELETE_BATCH_MAX
        while deleted == DELETE_BATCH_MAX:
            deleted = await self._database.get(int, query, tenant, user, DELETE_BATCH_MAX)
            total += deleted
        return total

    async def forget_untouched(self, age_s: float) -> int:
        """Delete some of the sessions, of all tenants, that have not changed for so long and are not busy; a
        suspended run goes with its session. Returns how many: if it is `FORGET_MAX`, there may be more.
        """
        query = """
            with gone as (
              delete from sessions s using (
                select old.tenant_id, old.id from tenants t cross join lateral (
                  select tenant_id, id from sessions
                  where tenant_id = t.id and updated_at < clock_timestamp() - $1 * interval '1 second'
                    and not session_busy(tenant_id, id)
                  order by updated_at limit $2 for update skip locked) old
                limit $2) due
              where s.tenant_id = due.tenant_id and s.id = due.id
              returning s.id)
            select to_json(count(*)) from gone
        """
        return await self._database.get(int, query, age_s, DELETE_BATCH_MAX)


def _token(place: _Place | _Position) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _place[T](kind: type[T], token: str) -> T:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=kind)
    except ValueError as fault:  # of both decoders
        raise Invalid("this is no page token of ours", "/before") from fault
