"""The session API's feedback: `/api/agents/{agent}/{session}/feedback`."""

from collections.abc import Sequence

import msgspec
from aiohttp import web

from rejoin_gateway.api.shared.feedback_forms import (
    FEEDBACK_PAGE_DEFAULT,
    FeedbackBody,
    GivenFeedback,
    feedback_book,
    to_given,
)
from rejoin_gateway.api.shared.paging import PAGE_QUERY, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http.request import decode_body, session_of
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc


class SessionFeedback(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session's feedback, newest first. `next`: the `before` of the following page; absent on the last."""

    feedback: Sequence[GivenFeedback]
    next: str | None = None


async def give_feedback(request: web.Request) -> web.StreamResponse:
    """Store feedback on the session or on one of its messages."""
    body = await decode_body(request, FeedbackBody)
    session = await _existing_session(request)
    stored, created = await feedback_book(request).give(
        session.id, body.message_id, body.type, body.details, body.id
    )
    return json_response(to_given(stored), 201 if created else 200)


async def list_feedback(request: web.Request) -> web.StreamResponse:
    """The session's feedback, newest first."""
    session, limit = await _existing_session(request), parse_limit(request, FEEDBACK_PAGE_DEFAULT)
    page = await feedback_book(request).list(session.id, limit=limit, before=request.query.get("before"))
    return json_response(SessionFeedback([to_given(one) for one in page.entries], page.next))


async def _existing_session(request: web.Request) -> AgentSession:
    """The session of the path. Raises `NotFound`, also if it belongs to another agent."""
    session = session_of(request, request.match_info["session"])
    await session.summary()
    return session


ROUTES = (
    Route(
        "POST",
        "/api/agents/{agent}/{session}/feedback",
        give_feedback,
        Scope.CHAT,
        RouteDoc(
            "Give feedback on a session",
            description="Stores what somebody thinks of an answer, or without `messageId` of the whole "
            "session. Returns 201 and the stored feedback; 200 if its `id` is stored already.",
            body=FeedbackBody,
            responses={201: GivenFeedback, 200: GivenFeedback},
            error_statuses=(409,),
            tag="session",
            example={"type": "positive"},
        ),
    ),
    Route(
        "GET",
        "/api/agents/{agent}/{session}/feedback",
        list_feedback,
        Scope.CHAT,
        RouteDoc(
            "List a session's feedback",
            description="Returns the feedback that the credential's user has given on the session, newest "
            "first; a credential without a user gets all of it.",
            responses={200: SessionFeedback},
            query=PAGE_QUERY,
            tag="session",
        ),
    ),
)
