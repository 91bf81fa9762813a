"""`FeedbackStore` in PostgreSQL."""

import msgspec

from rejoin_adapters import page_tokens
from rejoin_adapters.feedback_types import ClientEvent, ClientEventPage, Feedback, FeedbackPage
from rejoin_adapters.page_tokens import NumberToken
from rejoin_adapters.ports.feedback import EVENTS_KEPT, FEEDBACK_MAX, PRUNE_INTERVAL
from rejoin_adapters.postgres.pool import Database, json_or_null
from rejoin_adapters.session_keys import named_entry
from rejoin_adapters.store_types import Owner
from rejoin_protocol.ids import AgentName, SessionId


class _StoredFeedback(msgspec.Struct, frozen=True):
    stored: Feedback
    created: bool


class _StoredEvent(msgspec.Struct, frozen=True):
    stored: ClientEvent
    created: bool


class PostgresFeedbackStore:
    """The adapter of `FeedbackStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_feedback(
        self, owner: Owner, feedback: Feedback, *, agent: AgentName | None = None
    ) -> tuple[Feedback, bool]:
        """See `FeedbackStore`."""
        made = await self._database.fetch_json(
            _StoredFeedback,
            "select add_feedback($1, $2, $3, $4, session_key($1, $2, $5), $6, $7, $8, $9, $10)",
            owner.tenant,
            owner.user,
            agent,
            feedback.id,
            feedback.session,
            feedback.message,
            feedback.type,
            json_or_null(feedback.details),
            feedback.created_at,
            FEEDBACK_MAX,
        )
        return named_entry(owner, made.stored), made.created

    async def list_feedback(
        self,
        owner: Owner,
        *,
        session: SessionId | None = None,
        agent: AgentName | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> FeedbackPage:
        """See `FeedbackStore`."""
        query, args = _newest("feedback", "feedback_json", owner, session, agent, limit, before)
        found = await self._database.fetch_json(list[tuple[int, Feedback]], query, *args)
        return FeedbackPage(
            [named_entry(owner, one) for _, one in found[:limit]], _next_token([n for n, _ in found], limit)
        )

    async def add_event(self, owner: Owner, event: ClientEvent) -> tuple[ClientEvent, bool]:
        """See `FeedbackStore`."""
        made = await self._database.fetch_json(
            _StoredEvent,
            "select add_client_event("
            "  $1, $2, $3, $4, $5, session_key($1, $2, $6), $7, $8, $9, $10, $11, $12, $13)",
            owner.tenant,
            owner.user,
            event.id,
            event.type,
            event.agent,
            event.session,
            event.message,
            json_or_null(event.properties),
            json_or_null(event.user_properties),
            json_or_null(event.metadata),
            event.created_at,
            EVENTS_KEPT,
            PRUNE_INTERVAL,
        )
        return named_entry(owner, made.stored), made.created

    async def list_events(
        self,
        owner: Owner,
        *,
        session: str | None = None,
        agent: AgentName | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> ClientEventPage:
        """See `FeedbackStore`."""
        query, args = _newest("client_events", "client_event_json", owner, session, agent, limit, before)
        found = await self._database.fetch_json(list[tuple[int, ClientEvent]], query, *args)
        return ClientEventPage(
            [named_entry(owner, one) for _, one in found[:limit]], _next_token([n for n, _ in found], limit)
        )


def _newest(
    table: str,
    to_json: str,
    owner: Owner,
    session: str | None,
    agent: AgentName | None,
    limit: int,
    before: str | None,
) -> tuple[str, tuple[object, ...]]:
    """The query of a page and of one row more, with its arguments."""
    # `$2 is null or …` would keep the planner from using the indexes on users and sessions.
    of_user = "$2::text is null" if owner.user is None else "user_id = $2"
    of_session = "$3::text is null" if session is None else "session_id = session_key($1, $2, $3)"
    query = f"""
        select coalesce(json_agg(json_build_array(number, {to_json}(t::{table})) order by number desc), '[]')
        from (
          select * from {table}
          where tenant_id = $1 and {of_user} and {of_session} and ($4::text is null or agent = $4)
            and ($5::bigint is null or number < $5)
          order by number desc limit $6) t
    """  # noqa: S608
    end = page_tokens.decode(NumberToken, before).number if before is not None else None
    return query, (owner.tenant, owner.user, session, agent, end, limit + 1)


def _next_token(numbers: list[int], limit: int) -> str | None:
    return page_tokens.encode(NumberToken(numbers[limit - 1])) if len(numbers) > limit else None
