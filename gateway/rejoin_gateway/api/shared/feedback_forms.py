"""Feedback as the run and the session API take and return it."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.feedback_types import Feedback
from rejoin_gateway.core.feedback import FeedbackBook
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE

FEEDBACK_PAGE_DEFAULT = 50
DETAILS_CHARS_MAX = 10_000
type GivenId = Annotated[str, Meta(min_length=1, max_length=256)]
type Details = Annotated[str, Meta(max_length=DETAILS_CHARS_MAX)]


class FeedbackBody(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """A person's feedback on an answer, or without `messageId` on the whole conversation. `id`: the same id
    again is the same feedback.
    """

    type: Literal["positive", "negative"]
    message_id: GivenId | None = None
    details: Details | None = None
    id: GivenId | None = None


class GivenFeedback(msgspec.Struct, frozen=True, rename="camel"):
    """Feedback as it is stored; it never changes. `userId`: who gave it."""

    id: str
    conversation_id: str
    message_id: str | None
    agent_id: str | None
    user_id: str | None
    type: Literal["positive", "negative"]
    details: str | None
    created_at: datetime
    updated_at: datetime


def feedback_book(request: web.Request) -> FeedbackBook:
    """The feedback that the caller of a request may store and read."""
    backend, principal = request.app[SERVICE].backend, request[PRINCIPAL]
    return FeedbackBook(backend.feedback, principal.owner, principal.agent, backend.now, backend.random_bytes)


def to_given(feedback: Feedback) -> GivenFeedback:
    """Feedback as clients receive it."""
    return GivenFeedback(
        feedback.id,
        feedback.session,
        feedback.message,
        feedback.agent,
        feedback.user,
        feedback.type,
        feedback.details,
        feedback.created_at,
        feedback.created_at,
    )
