"""The run API's feedback and client events: stored, and read again by conversation."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from rejoin_adapters.feedback_types import ClientEvent
from rejoin_gateway.api.shared.feedback_forms import (
    FEEDBACK_PAGE_DEFAULT,
    FeedbackBody,
    GivenFeedback,
    GivenId,
    feedback_book,
    to_given,
)
from rejoin_gateway.api.shared.paging import PAGE_QUERY, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.request import allowed_agent, decode_body, named_agent
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import AGENT_HEADER, GivenAgent, Route, RouteDoc
from rejoin_protocol.ids import session_id
from rejoin_protocol.limits import FreeObject, Id

QUERY = {**PAGE_QUERY, "conversationId": "Only what belongs to this conversation."}


class ConversationFeedback(FeedbackBody, frozen=True, rename="camel", kw_only=True):
    """Feedback, and the conversation that it is about."""

    conversation_id: GivenId


class StoredFeedback(msgspec.Struct, frozen=True):
    """Feedback as it is stored."""

    data: GivenFeedback


class FeedbackList(msgspec.Struct, frozen=True, omit_defaults=True):
    """Feedback, newest first. `next`: the `before` of the following page; absent on the last one."""

    data: Sequence[GivenFeedback]
    next: str | None = None


class EventBody(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """Something that happened in a client. The conversation and the message need not exist yet. The three
    objects hold what the client likes; each has at most 100 keys and 64 KiB. `id`: the same id again is the
    same event.
    """

    type: GivenId
    id: GivenId | None = None
    agent_id: GivenAgent | None = None
    conversation_id: Id | None = None
    message_id: Id | None = None
    properties: FreeObject | None = None
    user_properties: FreeObject | None = None
    metadata: FreeObject | None = None


class LoggedEvent(msgspec.Struct, frozen=True, rename="camel"):
    """An event as it is stored; it never changes. `userId`: whose credential reported it."""

    id: str
    type: str
    agent_id: str | None
    conversation_id: str | None
    message_id: str | None
    user_id: str | None
    properties: dict[str, Any] | None
    user_properties: dict[str, Any] | None
    metadata: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime


class StoredEvent(msgspec.Struct, frozen=True):
    """An event as it is stored."""

    data: LoggedEvent


class EventList(msgspec.Struct, frozen=True, omit_defaults=True):
    """Events, newest first. `next`: the `before` of the following page; absent on the last one."""

    data: Sequence[LoggedEvent]
    next: str | None = None


async def give_feedback(request: web.Request) -> web.StreamResponse:
    """Store feedback on a conversation or on one of its messages."""
    body = await decode_body(request, ConversationFeedback)
    stored, created = await feedback_book(request).give(
        session_id(body.conversation_id), body.message_id, body.type, body.details, body.id
    )
    return json_response(StoredFeedback(to_given(stored)), 201 if created else 200)


async def list_feedback(request: web.Request) -> web.StreamResponse:
    """The caller's feedback, newest first."""
    conversation = request.query.get("conversationId")
    page = await feedback_book(request).list(
        None if conversation is None else session_id(conversation),
        limit=parse_limit(request, FEEDBACK_PAGE_DEFAULT),
        before=request.query.get("before"),
    )
    return json_response(FeedbackList([to_given(one) for one in page.entries], page.next))


async def log_event(request: web.Request) -> web.StreamResponse:
    """Store an event."""
    body = await decode_body(request, EventBody)
    named = [allowed_agent(request, name) for name in (body.agent_id, named_agent(request)) if name]
    stored, created = await feedback_book(request).report(
        body.type,
        agent=named[0] if named else None,
        session=body.conversation_id,
        message=body.message_id,
        properties=body.properties,
        user_properties=body.user_properties,
        metadata=body.metadata,
        id=body.id,
    )
    return json_response(StoredEvent(_to_logged(stored)), 201 if created else 200)


async def list_events(request: web.Request) -> web.StreamResponse:
    """The events that the caller has reported, newest first."""
    page = await feedback_book(request).events(
        request.query.get("conversationId"),
        limit=parse_limit(request, FEEDBACK_PAGE_DEFAULT),
        before=request.query.get("before"),
    )
    return json_response(EventList([_to_logged(one) for one in page.events], page.next))


def _to_logged(event: ClientEvent) -> LoggedEvent:
    return LoggedEvent(
        event.id,
        event.type,
        event.agent,
        event.session,
        event.message,
        event.user,
        event.properties,
        event.user_properties,
        event.metadata,
        event.created_at,
        event.created_at,
    )


ROUTES = (
    Route(
        "POST",
        "/run/v1/feedback",
        give_feedback,
        Scope.CHAT,
        RouteDoc(
            "Give feedback",
            description="Stores what somebody thinks of an answer, or of a whole conversation. Returns 201 "
            "and the stored feedback; 200 if its `id` is stored already.",
            body=ConversationFeedback,
            responses={201: StoredFeedback, 200: StoredFeedback},
            error_statuses=(404, 409),
            tag="run",
            example={"conversationId": "trip-1", "type": "positive"},
        ),
    ),
    Route(
        "GET",
        "/run/v1/feedback",
        list_feedback,
        Scope.CHAT,
        RouteDoc(
            "List feedback",
            description="Returns the feedback that the credential's user has given, newest first; a "
            "credential without a user gets all feedback of its tenant.",
            responses={200: FeedbackList},
            query=QUERY,
            tag="run",
        ),
    ),
    Route(
        "POST",
        "/run/v1/events",
        log_event,
        Scope.CHAT,
        RouteDoc(
            "Log a client event",
            description="Stores what happened in a client, for example that a message was sent or an answer "
            "was shown. Conversation and message need not exist yet. Returns 201 and the stored event; 200 "
            "if its `id` is stored already. Of a tenant the newest 100,000 events are kept.",
            body=EventBody,
            responses={201: StoredEvent, 200: StoredEvent},
            headers=AGENT_HEADER,
            tag="run",
            example={"type": "user_message_submitted", "conversationId": "trip-1"},
        ),
    ),
    Route(
        "GET",
        "/run/v1/events",
        list_events,
        Scope.CHAT,
        RouteDoc(
            "List client events",
            description="Returns the events that the credential's user has reported, newest first; a "
            "credential without a user gets all events of its tenant.",
            responses={200: EventList},
            query=QUERY,
            tag="run",
        ),
    ),
)
