"""Feedback on answers, and events that clients report: a message was sent, an answer was shown."""

from typing import Protocol

from rejoin_adapters.feedback_types import ClientEvent, ClientEventPage, Feedback, FeedbackPage
from rejoin_adapters.store_types import Owner
from rejoin_protocol.ids import AgentName, SessionId

FEEDBACK_MAX = 1_000
"""Entries of feedback on one session."""
EVENTS_KEPT = 100_000
"""Newest events that are kept of one tenant; older ones are deleted, at every `PRUNE_INTERVAL`-th event."""
PRUNE_INTERVAL = 64


class FeedbackStore(Protocol):
    """An owner sees what it has stored itself; an owner without a user sees all of its tenant. `agent`: only
    what belongs to this agent. Whatever names a session is deleted with it.

    An id that its owner has used already stores nothing: the stored entry is returned unchanged.
    """

    async def add_feedback(
        self, owner: Owner, feedback: Feedback, *, agent: AgentName | None = None
    ) -> tuple[Feedback, bool]:
        """Store feedback on a session. Returns what is stored, and whether it is new.

        Raises `NotFound` for the session or the message, and `Conflict` if the session has `FEEDBACK_MAX`.
        """
        ...

    async def list_feedback(
        self,
        owner: Owner,
        *,
        session: SessionId | None = None,
        agent: AgentName | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> FeedbackPage:
        """A page of feedback, newest first. `before`: a page token. Raises `Invalid` for it."""
        ...

    async def add_event(self, owner: Owner, event: ClientEvent) -> tuple[ClientEvent, bool]:
        """Store an event. Its session and message need not exist. Returns as `add_feedback`."""
        ...

    async def list_events(
        self,
        owner: Owner,
        *,
        session: str | None = None,
        agent: AgentName | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> ClientEventPage:
        """A page of events, newest first. `before`: a page token. Raises `Invalid` for it."""
        ...
