"""The run API's conversations: the caller's sessions, listed, read and resumed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from msgspec import UNSET

from rejoin_adapters.store_types import SessionSummary
from rejoin_gateway.api.run.executions import PendingApproval, to_pending_approval
from rejoin_gateway.api.shared.lookup import directory_of, summary_in_path
from rejoin_gateway.api.shared.paging import (
    NUMBERED_MAX,
    NUMBERED_PAGE_QUERY,
    SESSIONS_DEFAULT,
    page_of_messages,
    page_of_sessions,
    parse_limit,
    parse_page,
)
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.response import json_response, stream_from_position
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.events.fold import MessageDict

CONVERSATION_MESSAGES_DEFAULT = 50


class ConversationSummary(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A session without its messages. `active`: it has a run that is queued or running. `title`: without one
    of its own, how the first user message begins.
    """

    id: str
    agent_id: str
    created_at: datetime
    updated_at: datetime
    message_count: int
    active: bool
    title: str | None = None
    metadata: Any = None


class NumberedPage(msgspec.Struct, frozen=True):
    """Which page this is. `total`: entries on all pages, counted up to 10,000."""

    page: int
    limit: int
    total: int
    pages: int


class ConversationPage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of sessions. `next`: pass it as `before` to get the following page; absent on the
    last one.
    """

    data: list[ConversationSummary]
    pagination: NumberedPage
    next: str | None = None


class ConversationMessage(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A message in the AI SDK's form. `content`: the text of all its text parts."""

    id: str
    role: str
    content: str
    parts: Sequence[Any]
    created_at: datetime
    metadata: Any = UNSET


class Conversation(ConversationSummary, frozen=True, rename="camel", omit_defaults=True, kw_only=True):
    """A session with a page of its messages, oldest first."""

    messages: Sequence[ConversationMessage]


class ConversationMessages(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of a session's messages. `next`: pass it as `before` to get the page of older ones."""

    data: Conversation
    pagination: NumberedPage
    next: str | None = None


class PendingInput(msgspec.Struct, frozen=True, rename="camel"):
    """The tool calls of a session that wait for a decision, oldest first."""

    pending_approvals: list[PendingApproval]


async def list_conversations(request: web.Request) -> web.StreamResponse:
    """The caller's sessions, the last changed first."""
    directory, page = directory_of(request), await page_of_sessions(request)
    titles = await directory.titles(page.sessions)
    total = await directory.count_sessions(NUMBERED_MAX)
    return json_response(
        ConversationPage(
            [_to_summary(summary, titles.get(summary.id)) for summary in page.sessions],
            _to_numbered(request, SESSIONS_DEFAULT, total),
            page.next,
        )
    )


async def get_conversation(request: web.Request) -> web.StreamResponse:
    """A session with its newest messages, or those before a page token."""
    summary, page = await page_of_messages(request, CONVERSATION_MESSAGES_DEFAULT)
    titles = await directory_of(request).titles([summary])
    head = msgspec.structs.asdict(_to_summary(summary, titles.get(summary.id)))
    messages = [_to_message(*stored) for stored in zip(page.messages, page.times, strict=True)]
    return json_response(
        ConversationMessages(
            Conversation(**head, messages=messages),
            _to_numbered(request, CONVERSATION_MESSAGES_DEFAULT, min(summary.messages, NUMBERED_MAX)),
            page.next,
        )
    )


async def resume_conversation(request: web.Request) -> web.StreamResponse:
    """The stream of the session's run from the client's position."""
    _, session = await summary_in_path(request)
    return await stream_from_position(request, session)


async def list_pending_approvals(request: web.Request) -> web.StreamResponse:
    """The open approvals of the session."""
    _, session = await summary_in_path(request)
    pending = await session.pending_approvals()
    return json_response(PendingInput([to_pending_approval(approval) for approval in pending]))


def _to_summary(summary: SessionSummary, title: str | None) -> ConversationSummary:
    return ConversationSummary(
        summary.id,
        summary.agent,
        summary.created_at,
        summary.updated_at,
        summary.messages,
        summary.is_busy,
        title,
        summary.metadata,
    )


def _to_message(message: MessageDict, created_at: datetime) -> ConversationMessage:
    parts = message["parts"]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return ConversationMessage(
        message["id"], message["role"], text, parts, created_at, message.get("metadata", UNSET)
    )


def _to_numbered(request: web.Request, limit_default: int, total: int) -> NumberedPage:
    limit = parse_limit(request, limit_default)
    return NumberedPage(parse_page(request, limit), limit, total, -(-total // limit))


ROUTES = (
    Route(
        "GET",
        "/run/v1/conversations",
        list_conversations,
        Scope.CHAT,
        RouteDoc(
            "List conversations",
            description="Returns the caller's sessions page by page, the last changed first, without their "
            "messages. Use it for a list of chats. A page token in `next` leads to the following page; "
            "`page` names a page by its number.",
            responses={200: ConversationPage},
            query=NUMBERED_PAGE_QUERY,
            tag="run",
        ),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}",
        get_conversation,
        Scope.CHAT,
        RouteDoc(
            "Read a conversation's messages",
            description=f"Returns the newest {CONVERSATION_MESSAGES_DEFAULT} messages, oldest first, or the "
            "page before a page token; page 1 holds the newest. While `active` is true, the answer in "
            "progress is not among the messages: its stream delivers all of it.",
            responses={200: ConversationMessages},
            query=NUMBERED_PAGE_QUERY,
            tag="run",
        ),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}/stream",
        resume_conversation,
        Scope.CHAT,
        RouteDoc(
            "Resume the stream of a conversation",
            description="Returns the active run's stream from its beginning, or 204 if no run is active. "
            "With a position it returns the events behind that position, also of a run that has ended.",
            responses={200: bytes, 204: None},
            tag="run",
        ),
    ),
    Route(
        "GET",
        "/run/v1/conversations/{id}/pending-approvals",
        list_pending_approvals,
        Scope.CHAT,
        RouteDoc(
            "List tool calls that wait for approval",
            description="Returns the calls of the conversation that wait for a person's decision, with their "
            "input. Decide them by `POST /run/api/executions/{run}/approvals/{call}` or in a chat request.",
            responses={200: PendingInput},
            tag="run",
        ),
    ),
)
