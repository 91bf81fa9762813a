"""The run API's conversations: sessions listed and read, rejoined, and asked what they wait for."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta
from rejoin_adapters.records import MessagePage as Page
from rejoin_adapters.records import SessionPage, SessionSummary
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import UIMessage

from rejoin_gateway.api.run.executions import PendingApproval, pending
from rejoin_gateway.api.shared.lookup import summary_in_path
from rejoin_gateway.http.response import json_response, stream_from_position
from rejoin_gateway.http.routes import Parameters, Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL, SERVICE

LIMIT_MAX = 200
LIMIT_DIGITS_MAX = 9


class ConversationSummary(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A session at a glance."""

    id: str
    agent_id: str
    created_at: datetime
    updated_at: datetime
    message_count: int
    active: bool
    title: str | None = None
    metadata: Any = None


class ConversationPage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of them. `next` is the `before` of the following page."""

    conversations: list[ConversationSummary]
    next: str | None = None


class ConversationMessages(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A conversation with a page of its messages, oldest first; `next` is the `before` of older ones."""

    id: str
    agent_id: str
    messages: Sequence[UIMessage]
    active: bool
    title: str | None = None
    next: str | None = None


class PendingInput(msgspec.Struct, frozen=True, rename="camel"):
    """What a conversation waits for."""

    pending_approvals: list[PendingApproval]


async def list_conversations(request: web.Request) -> web.StreamResponse:
    """The caller's conversations, the one that changed last first."""
    page = await threads_of(request)
    return json_response(ConversationPage([_shown(thread) for thread in page.sessions], page.next))


async def get_conversation(request: web.Request) -> web.StreamResponse:
    """One of them, with its newest messages or those before."""
    thread, page = await messages_of(request, 50)
    return json_response(
        ConversationMessages(thread.id, thread.agent, page.messages, thread.busy, thread.title, page.next)
    )


async def resume_stream(request: web.Request) -> web.StreamResponse:
    """The stream of its run, from wherever the client is."""
    _, session = await summary_in_path(request)
    return await stream_from_position(request, session)


async def list_pending_approvals(request: web.Request) -> web.StreamResponse:
    """The questions that wait for an answer."""
    _, session = await summary_in_path(request)
    return json_response(PendingInput(await pending(session)))


def _shown(thread: SessionSummary) -> ConversationSummary:
    return ConversationSummary(
        thread.id,
        thread.agent,
        thread.created_at,
        thread.updated_at,
        thread.messages,
        thread.busy,
        thread.title,
        thread.metadata,
    )


async def threads_of(request: web.Request) -> SessionPage:
    """The page of the caller's sessions that a request asks for. Raises `Invalid`."""
    principal = request[PRINCIPAL]
    return await request.app[SERVICE].backend.threads.list(
        principal.owner,
        agent=principal.agent,
        limit=parse_limit(request, 20),
        before=request.query.get("before"),
    )


async def messages_of(request: web.Request, usual: int) -> tuple[SessionSummary, Page]:
    """The session of a path, and the page of its messages that a request asks for. Raises `NotFound`,
    `Invalid`.
    """
    thread, session = await summary_in_path(request)
    page = await session.backend.threads.messages(
        session.owner, session.id, limit=parse_limit(request, usual), before=request.query.get("before")
    )
    return thread, page


def parse_limit(request: web.Request, usual: int, most: int = LIMIT_MAX) -> int:
    """How many the caller wants. Raises `Invalid`."""
    text = request.query.get("limit", str(usual))
    if not (text.isascii() and text.isdigit() and len(text) <= LIMIT_DIGITS_MAX and 1 <= int(text) <= most):
        raise Invalid(f"limit is a number from 1 to {most}")
    return int(text)


PAGE_QUERY: Parameters = {
    "limit": ("How many at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
    "before": "The `next` of the page before.",
}
ROUTES = (
    Route(
        "GET",
        "/run/v1/conversations",
        list_conversations,
        Scope.CHAT,
        RouteDoc("The caller's conversations", None, {200: ConversationPage}, PAGE_QUERY, tag="run"),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}",
        get_conversation,
        Scope.CHAT,
        RouteDoc("A conversation's messages", None, {200: ConversationMessages}, PAGE_QUERY, tag="run"),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}/stream",
        resume_stream,
        Scope.CHAT,
        RouteDoc("Rejoin the running answer", None, {200: bytes, 204: None}, tag="run"),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}/pending-approvals",
        list_pending_approvals,
        Scope.CHAT,
        RouteDoc("What it waits for", None, {200: PendingInput}, tag="run"),
    ),
)
