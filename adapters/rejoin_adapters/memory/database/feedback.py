"""`FeedbackStore` in memory, over the rows of a `MemoryDatabase`."""

import msgspec

from rejoin_adapters import page_tokens
from rejoin_adapters.feedback_types import ClientEvent, ClientEventPage, Feedback, FeedbackPage
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.page_tokens import NumberToken
from rejoin_adapters.ports.feedback import EVENTS_KEPT, FEEDBACK_MAX
from rejoin_adapters.session_keys import named_entry
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Conflict, NotFound
from rejoin_protocol.ids import AgentName, SessionId, TenantId


class MemoryFeedbackStore:
    """`FeedbackStore` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add_feedback(
        self, owner: Owner, feedback: Feedback, *, agent: AgentName | None = None
    ) -> tuple[Feedback, bool]:
        """See `FeedbackStore`."""
        session = self._database.find_session(owner, feedback.session)
        if session is None or agent not in {None, session.agent}:
            raise NotFound("there is no such session")
        rows, key = self._database.feedback, self._database.key(owner, feedback.session)
        known = _find(rows, owner, feedback.id)
        if known is not None:
            return named_entry(owner, known), False
        if feedback.message is not None and session.message(feedback.message) is None:
            raise NotFound("there is no such message in the session")
        if sum((t, one.session) == (owner.tenant, key) for t, one in rows) >= FEEDBACK_MAX:
            raise Conflict("the session has as much feedback as it may have")
        stored = msgspec.structs.replace(feedback, session=key, user=owner.user, agent=session.agent)
        rows.append((owner.tenant, stored))
        return named_entry(owner, stored), True

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
        key = session and self._database.key(owner, session)
        return FeedbackPage(*_page(self._database.feedback, owner, key, agent, limit, before))

    async def add_event(self, owner: Owner, event: ClientEvent) -> tuple[ClientEvent, bool]:
        """See `FeedbackStore`."""
        rows = self._database.client_events
        known = _find(rows, owner, event.id)
        if known is not None:
            return named_entry(owner, known), False
        key = event.session and self._database.key(owner, SessionId(event.session))
        stored = msgspec.structs.replace(event, session=key, user=owner.user)
        rows.append((owner.tenant, stored))
        mine = [row for row in rows if row[0] == owner.tenant]
        for row in mine[:-EVENTS_KEPT]:
            rows.remove(row)
        return named_entry(owner, stored), True

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
        key = session and self._database.key(owner, SessionId(session))
        return ClientEventPage(*_page(self._database.client_events, owner, key, agent, limit, before))


def _find[T: (Feedback, ClientEvent)](rows: list[tuple[TenantId, T]], owner: Owner, id: str) -> T | None:
    return next((one for t, one in rows if (t, one.user, one.id) == (owner.tenant, owner.user, id)), None)


def _page[T: (Feedback, ClientEvent)](
    rows: list[tuple[TenantId, T]],
    owner: Owner,
    session: str | None,
    agent: AgentName | None,
    limit: int,
    before: str | None,
) -> tuple[list[T], str | None]:
    end = page_tokens.decode(NumberToken, before).number if before is not None else len(rows)
    found = [
        (number, one)
        for number, (tenant, one) in enumerate(rows)
        if tenant == owner.tenant
        and owner.user in {None, one.user}
        and session in {None, one.session}
        and agent in {None, one.agent}
        and number < end
    ][::-1]
    older = page_tokens.encode(NumberToken(found[limit - 1][0])) if len(found) > limit else None
    return [named_entry(owner, one) for _, one in found[:limit]], older
