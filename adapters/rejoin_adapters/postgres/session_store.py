"""`SessionStore` in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from rejoin_adapters import page_tokens
from rejoin_adapters.console_types import SEARCHED_MAX, SessionFilter
from rejoin_adapters.page_tokens import MessageToken, SessionToken
from rejoin_adapters.ports.session_store import (
    BYTES_BATCH_MAX,
    DELETE_BATCH_MAX,
    FORKS_MAX,
    ROWS_BATCH_MAX,
    DeletedBatch,
)
from rejoin_adapters.postgres import message_pages
from rejoin_adapters.postgres.conditions import given_conditions
from rejoin_adapters.postgres.pool import Database, json_or_null
from rejoin_adapters.session_keys import name_of, named_fork, named_session, named_summary
from rejoin_adapters.store_types import (
    Fork,
    ForkOrigin,
    MessagePage,
    Owner,
    RunSummary,
    SessionPage,
    SessionSummary,
)
from rejoin_adapters.usage_types import SessionUsage
from rejoin_protocol.errors import NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.limits import PAGE_BYTES_MAX

RUNS_MAX = 1000
EVENTS_DELETED_MAX = 10_000
"""Old client events deleted in one statement."""


type _PlacedMessage = tuple[int, MessageDict, datetime]
"""A message with its position and the time when it was stored."""


_BATCH = DELETE_BATCH_MAX, ROWS_BATCH_MAX, BYTES_BATCH_MAX


class _Last(msgspec.Struct, frozen=True):
    updated_at: datetime
    id: SessionId


class _Found(msgspec.Struct, frozen=True):
    """The sessions that a filter names among those that were looked at, and the last of the latter."""

    sessions: list[SessionSummary]
    seen: int
    last: _Last | None

    def page(self, owner: Owner, limit: int, *, is_search: bool) -> SessionPage:
        following: SessionToken | None = None
        if len(self.sessions) > limit:
            following = SessionToken.of(self.sessions[limit - 1])
        elif is_search and self.seen == SEARCHED_MAX and self.last is not None:
            following = SessionToken.of(self.last)
        sessions = [named_session(owner, one) for one in self.sessions[:limit]]
        return SessionPage(sessions, None if following is None else page_tokens.encode(following))


class PostgresSessionStore:
    """The adapter of `SessionStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        token = page_tokens.decode(SessionToken, before) if before is not None else None
        # `$2 is null or …` would keep the planner from using the index on a user's sessions.
        condition = "$2::text is null" if owner.user is None else "user_id = $2"
        query = f"""
            select coalesce(json_agg(thread_json(s::sessions) order by updated_at desc, id desc), '[]')
            from (
              select * from sessions
              where tenant_id = $1 and {condition} and ($3::text is null or agent = $3)
                and not ($8 and is_fork(sessions))
                and ($4::bigint is null
                  or (updated_at, id) < (timestamptz 'epoch' + $4 * interval '1 microsecond', $5::text))
              order by updated_at desc, id desc limit $6 offset $7) s
        """  # noqa: S608
        sessions = await self._database.fetch_json(
            list[SessionSummary],
            query,
            owner.tenant,
            owner.user,
            agent,
            token and token.time_us,
            token and token.id,
            limit + 1,
            skip,
            roots,
        )
        more = len(sessions) > limit
        following = page_tokens.encode(SessionToken.of(sessions[limit - 1])) if more else None
        return SessionPage([named_session(owner, one) for one in sessions[:limit]], following)

    async def search(self, owner: Owner, wanted: SessionFilter, limit: int = 20) -> SessionPage:
        """See `SessionStore`."""
        token = None if wanted.before is None else page_tokens.decode(SessionToken, wanted.before)
        text = None if wanted.text is None else wanted.text.lower()
        looked_at = limit + 1 if text is None else SEARCHED_MAX
        values: list[Any] = [owner.tenant, limit + 1, looked_at, text]
        filters = ("user_id =", owner.user), ("user_id =", wanted.user), ("agent =", wanted.agent)
        conditions = ["tenant_id = $1", *given_conditions(values, filters)]
        if token is not None:
            values += [token.time_us, token.id]
            at = f"timestamptz 'epoch' + ${len(values) - 1} * interval '1 microsecond'"
            conditions.append(f"(updated_at, id) < ({at}, ${len(values)}::text)")
        query = f"""
            with seen as materialized (
              select * from sessions where {" and ".join(conditions)}
              order by updated_at desc, id desc limit $3
            ), named as (
              select * from seen
              where $4::text is null or strpos(lower(id), $4) > 0
                or strpos(lower(coalesce(title, session_opening(tenant_id, id), '')), $4) > 0
              order by updated_at desc, id desc limit $2
            )
            select json_build_object(
              'sessions', (select coalesce(
                json_agg(thread_json(n::sessions) order by updated_at desc, id desc), '[]') from named n),
              'seen', (select count(*) from seen),
              'last', (select json_build_object('updated_at', updated_at, 'id', id)
                from seen order by updated_at, id limit 1))
        """  # noqa: S608 - all parts are constants
        found = await self._database.fetch_json(_Found, query, *values)
        return found.page(owner, limit, is_search=text is not None)

    async def count(
        self, owner: Owner, *, agent: AgentName | None = None, count_max: int, roots: bool = False
    ) -> int:
        """See `SessionStore`."""
        condition = "$2::text is null" if owner.user is None else "user_id = $2"
        query = f"""
            select to_json(count(*)) from (
              select from sessions
              where tenant_id = $1 and {condition} and ($3::text is null or agent = $3)
                and not ($5 and is_fork(sessions))
              limit $4) counted
        """  # noqa: S608
        return await self._database.fetch_json(int, query, owner.tenant, owner.user, agent, count_max, roots)

    async def openings(self, owner: Owner, sessions: Sequence[SessionId]) -> Mapping[SessionId, str]:
        """See `SessionStore`."""
        query = """
            select coalesce(json_object_agg(id, session_opening(tenant_id, id)), '{}') from sessions
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = any(array(
              select session_key($1, $2, name) from unnest($3::text[]) name))
        """
        found = await self._database.fetch_json(
            dict[SessionId, str | None], query, owner.tenant, owner.user, sessions
        )
        return {name_of(owner, session): text for session, text in found.items() if text is not None}

    async def forks(self, owner: Owner, sessions: Sequence[SessionId]) -> Sequence[Fork]:
        """See `SessionStore`."""
        query = """
            with recursive family (root, id, created_at) as (
              select id, id, created_at from sessions
              where tenant_id = $1 and ($2::text is null or user_id = $2) and id = any(array(
              select session_key($1, $2, name) from unnest($3::text[]) name))
              union
              select f.root, s.id, s.created_at from family f
              join sessions s on s.tenant_id = $1 and s.forked_from = f.id and s.created_at >= f.created_at)
            select coalesce(json_agg(json_build_object(
              'root', root, 'id', id, 'source', forked_from, 'before', forked_before, 'title', title,
              'updated_at', updated_at, 'busy', session_busy(tenant_id, id)) order by created_at, id), '[]')
            from (
              select f.root, s.* from family f join sessions s on s.tenant_id = $1 and s.id = f.id
              where f.id <> f.root order by s.created_at, s.id limit $4) forks
        """
        found = await self._database.fetch_json(
            list[Fork], query, owner.tenant, owner.user, sessions, FORKS_MAX
        )
        return [named_fork(owner, fork) for fork in found]

    async def origin(self, owner: Owner, session: SessionId) -> ForkOrigin | None:
        """See `SessionStore`."""
        query = """
            select json_build_object(
              'source', forked_from, 'before', forked_before, 'copied', (
                select count(*) from shown_messages($1, session_key($1, $2, $3)) m
                where m.role in ('user', 'assistant') and m.created_at < s.created_at))
            from sessions s
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
              and is_fork(s)
        """
        found = await self._database.find_json(ForkOrigin, query, owner.tenant, owner.user, session)
        return found and msgspec.structs.replace(found, source=name_of(owner, found.source))

    async def get(self, owner: Owner, session: SessionId) -> SessionSummary | None:
        """See `SessionStore`."""
        query = """
            select thread_json(s) from sessions s
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
        """
        found = await self._database.find_json(SessionSummary, query, owner.tenant, owner.user, session)
        return found and named_session(owner, found)

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
        query = message_pages.NEWEST
        end = page_tokens.decode(MessageToken, before).position if before is not None else None
        arguments = owner, session, end, limit, skip, PAGE_BYTES_MAX
        page, more = await self._get(tuple[list[_PlacedMessage], bool], query, *arguments)
        older = page_tokens.encode(MessageToken(page[0][0])) if more else None
        return MessagePage([message for _, message, _ in page], older, [time for _, _, time in page])

    async def runs(self, owner: Owner, session: SessionId) -> Sequence[RunSummary]:
        """See `SessionStore`."""
        query = """
            select (
              select coalesce(json_agg(listed_json(r::runs) order by position desc), '[]')
              from (
                select * from runs where tenant_id = $1 and session_id = session_key($1, $2, $3)
                order by position desc limit $4) r)
            from sessions
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
        """
        runs = await self._get(list[RunSummary], query, owner, session, RUNS_MAX)
        return [named_summary(owner, run) for run in runs]

    async def usage(self, owner: Owner, session: SessionId) -> SessionUsage:
        """See `SessionStore`."""
        query = """
            select (
              select json_build_object(
                'input_tokens', coalesce(sum(input_tokens), 0),
                'output_tokens', coalesce(sum(output_tokens), 0),
                'cost_nano_usd', sum(cost_nano_usd),
                'runs', count(*))
              from runs where tenant_id = $1 and session_id = session_key($1, $2, $3))
            from sessions
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
        """
        return await self._get(SessionUsage, query, owner, session)

    async def _get[T](self, kind: type[T], query: str, owner: Owner, session: SessionId, *args: Any) -> T:
        answer = await self._database.find_json(kind, query, owner.tenant, owner.user, session, *args)
        if answer is None:
            raise NotFound(f"there is no session {session!r}")
        return answer

    async def fork(
        self, owner: Owner, session: SessionId, message: MessageId, into: SessionId
    ) -> SessionSummary:
        """See `SessionStore`."""
        query = "select fork_session($1, $2, session_key($1, $2, $3), $4, session_key($1, $2, $5))"
        arguments = owner.tenant, owner.user, session, message, into
        return named_session(owner, await self._database.fetch_json(SessionSummary, query, *arguments))

    async def rewind(self, owner: Owner, session: SessionId, message: MessageId) -> SessionSummary:
        """See `SessionStore`."""
        query = "select rewind_session($1, $2, session_key($1, $2, $3), $4)"
        arguments = owner.tenant, owner.user, session, message
        return named_session(owner, await self._database.fetch_json(SessionSummary, query, *arguments))

    async def update(
        self,
        owner: Owner,
        session: SessionId,
        *,
        title: str | UnsetType | None = UNSET,
        metadata: Any | UnsetType = UNSET,
    ) -> SessionSummary:
        """See `SessionStore`."""
        query = """
            update sessions s set
              title = case when $4 then $5::text else title end,
              metadata = case when $6 then $7::json else metadata end
            where tenant_id = $1 and ($2::text is null or user_id = $2) and id = session_key($1, $2, $3)
            returning thread_json(s)
        """
        changes = (
            title is not UNSET,
            None if title is UNSET else title,
            metadata is not UNSET,
            None if metadata is UNSET else json_or_null(metadata),
        )
        return named_session(owner, await self._get(SessionSummary, query, owner, session, *changes))

    async def delete(self, owner: Owner, session: SessionId) -> Sequence[RunId] | None:
        """See `SessionStore`."""
        query = "select delete_session($1, $2, session_key($1, $2, $3))"
        runs = await self._database.fetch_text_as_actor(query, owner.tenant, owner.user, session)
        return None if runs is None else msgspec.json.decode(runs, type=list[RunId])

    async def delete_user(self, tenant: TenantId, user: UserId) -> int:
        """See `SessionStore`."""
        keys = "delete from api_keys where tenant_id = $1 and user_id = $2"
        await self._database.fetch_text_as_actor(keys, tenant, user)
        query = """
            with gone as (
              delete from client_events where number in (
                select number from client_events where tenant_id = $1 and user_id = $2 limit $3)
              returning 1)
            select count(*)::text from gone
        """
        while (
            int(await self._database.fetch_text(query, tenant, user, ROWS_BATCH_MAX) or 0) == ROWS_BATCH_MAX
        ):
            pass
        total, batch = 0, DeletedBatch(0, more=True)
        while batch.more:
            text = await self._database.fetch_text_as_actor(
                "select forget_batch($1, $2, $3, $4, $5)", tenant, user, *_BATCH
            )
            batch = msgspec.json.decode(text or "", type=DeletedBatch)
            total += batch.sessions
        return total

    async def delete_untouched(self, age_s: float) -> DeletedBatch:
        """See `SessionStore`."""
        query = "select expire_batch($1, $2, $3, $4)"
        deleted = await self._database.fetch_json(DeletedBatch, query, age_s, *_BATCH)
        await self._delete_old_events(age_s)
        return deleted

    async def _delete_old_events(self, age_s: float) -> None:
        query = """
            delete from client_events where number in (
              select number from client_events
              where created_at < clock_timestamp() - $1 * interval '1 second'
              order by created_at limit $2)
        """
        await self._database.fetch_text(query, age_s, EVENTS_DELETED_MAX)
