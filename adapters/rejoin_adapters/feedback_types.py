"""The records of `ports.feedback`: what people think of answers, and what clients report of their use."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec

from rejoin_protocol.ids import AgentName, MessageId, SessionId, UserId


class Feedback(msgspec.Struct, frozen=True):
    """A person's feedback on an answer, or on a whole session if `message` is None. `user`: who gave it;
    None: the tenant. `agent` is the session's.
    """

    id: str
    session: SessionId
    message: MessageId | None
    type: Literal["positive", "negative"]
    details: str | None
    created_at: datetime
    agent: AgentName | None = None
    user: UserId | None = None


class FeedbackPage(msgspec.Struct, frozen=True):
    """A page of feedback, newest first. `next`: the token of the page of older entries, or None."""

    entries: Sequence[Feedback]
    next: str | None


class ClientEvent(msgspec.Struct, frozen=True):
    """An event that a client reports about its use. `session` and `message` are the client's words: nothing
    of that name need exist. The three objects are any JSON, as the client sent them.
    """

    id: str
    type: str
    agent: str | None
    session: str | None
    message: str | None
    properties: dict[str, Any] | None
    user_properties: dict[str, Any] | None
    metadata: dict[str, Any] | None
    created_at: datetime
    user: UserId | None = None


class ClientEventPage(msgspec.Struct, frozen=True):
    """A page of events, newest first. `next`: the token of the page of older ones, or None."""

    events: Sequence[ClientEvent]
    next: str | None
