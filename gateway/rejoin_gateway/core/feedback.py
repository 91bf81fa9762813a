"""Feedback on answers and events that clients report: what one caller stores and reads.

A caller is an owner and, for a credential that is bound to one agent, that agent.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal

import msgspec

from rejoin_adapters.feedback_types import ClientEvent, ClientEventPage, Feedback, FeedbackPage
from rejoin_adapters.ports.feedback import FeedbackStore
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, MessageId, SessionId
from rejoin_protocol.limits import METADATA_BYTES_MAX, OBJECT_KEYS_MAX

FEEDBACK_ID_BYTES = 12


class FeedbackBook(msgspec.Struct, frozen=True):
    """`agent`: the one agent that the caller may use; None: any."""

    store: FeedbackStore
    owner: Owner
    agent: AgentName | None
    now: Callable[[], datetime]
    random_bytes: Callable[[int], bytes]

    async def give(
        self,
        session: SessionId,
        message: str | None,
        type: Literal["positive", "negative"],
        details: str | None,
        id: str | None,
    ) -> tuple[Feedback, bool]:
        """Store feedback; the same `id` again stores nothing. Raises as `FeedbackStore.add_feedback`."""
        given = Feedback(
            id or self._new_id("fb"),
            session,
            None if message is None else MessageId(message),
            type,
            details,
            self.now(),
        )
        return await self.store.add_feedback(self.owner, given, agent=self.agent)

    async def list(self, session: SessionId | None, *, limit: int, before: str | None) -> FeedbackPage:
        """A page of feedback, newest first. Raises `Invalid` for the page token."""
        return await self.store.list_feedback(
            self.owner, session=session, agent=self.agent, limit=limit, before=before
        )

    async def report(
        self,
        type: str,
        *,
        agent: AgentName | None,
        session: str | None,
        message: str | None,
        properties: dict[str, Any] | None,
        user_properties: dict[str, Any] | None,
        metadata: dict[str, Any] | None,
        id: str | None,
    ) -> tuple[ClientEvent, bool]:
        """Store an event; the same `id` again stores nothing. `agent`: one that the caller may use.

        Raises `Invalid` for an object that is too large.
        """
        _check_object("properties", properties)
        _check_object("userProperties", user_properties)
        _check_object("metadata", metadata)
        event = ClientEvent(
            id or self._new_id("ev"),
            type,
            agent or self.agent,
            session,
            message,
            properties,
            user_properties,
            metadata,
            self.now(),
        )
        return await self.store.add_event(self.owner, event)

    async def events(self, session: str | None, *, limit: int, before: str | None) -> ClientEventPage:
        """A page of events, newest first. Raises `Invalid` for the page token."""
        return await self.store.list_events(
            self.owner, session=session, agent=self.agent, limit=limit, before=before
        )

    def _new_id(self, kind: str) -> str:
        return f"{kind}_{self.random_bytes(FEEDBACK_ID_BYTES).hex()}"


def _check_object(name: str, value: dict[str, Any] | None) -> None:
    if value is None:
        return
    if len(value) > OBJECT_KEYS_MAX:
        raise Invalid(f"{name} has at most {OBJECT_KEYS_MAX} keys", f"/{name}")
    if len(msgspec.json.encode(value)) > METADATA_BYTES_MAX:
        raise Invalid(f"{name} has at most {METADATA_BYTES_MAX} bytes", f"/{name}")
