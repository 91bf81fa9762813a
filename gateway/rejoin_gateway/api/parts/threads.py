"""The parts family's threads: sessions listed, read, forked and deleted."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from rejoin_adapters.records import SessionSummary
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import MessageId, session_id

from rejoin_gateway.api.agent_sessions import Acknowledgement
from rejoin_gateway.api.run.conversations import PAGE_QUERY, messages_of, threads_of
from rejoin_gateway.api.shared.lookup import summary_in_path
from rejoin_gateway.core.message_input import new_session_id
from rejoin_gateway.http.request import decode_body
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import ErrorFormat, Route, RouteDoc, Scope


class ThreadSummary(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A thread at a glance."""

    id: str
    created_at: datetime
    updated_at: datetime
    message_count: int
    title: str | None = None
    metadata: Any = None


class ThreadList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of threads. `next` is the `before` of the following page."""

    threads: list[ThreadSummary]
    next: str | None = None


class ThreadMessages(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A thread with a page of its messages, oldest first. A call that waits is in `approval-requested`."""

    id: str
    messages: Sequence[UIMessage]
    created_at: datetime
    updated_at: datetime
    title: str | None = None
    active: bool = False
    next: str | None = None


class ForkRequest(msgspec.Struct, frozen=True, rename="camel"):
    """Where to part. `threadId`: the new thread's; without it one is made."""

    message_id: str
    thread_id: str | None = None


async def list_threads(request: web.Request) -> web.StreamResponse:
    """The caller's threads, the one that changed last first."""
    page = await threads_of(request)
    return json_response(ThreadList([_shown(thread) for thread in page.sessions], page.next))


async def get_thread(request: web.Request) -> web.StreamResponse:
    """One of them."""
    thread, page = await messages_of(request, 200)
    return json_response(
        ThreadMessages(
            thread.id,
            page.messages,
            thread.created_at,
            thread.updated_at,
            thread.title,
            thread.busy,
            page.next,
        )
    )


async def delete_thread(request: web.Request) -> web.StreamResponse:
    """Delete a thread and everything that belongs to it."""
    _, session = await summary_in_path(request)
    await session.delete()
    return json_response(Acknowledgement())


async def fork_thread(request: web.Request) -> web.StreamResponse:
    """A new thread with the messages strictly before one."""
    wish = await decode_body(request, ForkRequest)
    if not wish.message_id:
        raise Invalid("messageId is required", "/messageId")
    _, session = await summary_in_path(request)
    into = session_id(wish.thread_id or new_session_id())
    made = await session.backend.threads.fork(session.owner, session.id, MessageId(wish.message_id), into)
    return json_response(_shown(made))


def _shown(thread: SessionSummary) -> ThreadSummary:
    return ThreadSummary(
        thread.id, thread.created_at, thread.updated_at, thread.messages, thread.title, thread.metadata
    )


ROUTES = (
    Route(
        "GET",
        "/api/threads",
        list_threads,
        Scope.CHAT,
        RouteDoc("The caller's threads", None, {200: ThreadList}, PAGE_QUERY, tag="parts"),
        ErrorFormat.PLAIN,
    ),
    Route(
        "GET",
        "/api/threads/{id}",
        get_thread,
        Scope.CHAT,
        RouteDoc("A thread", None, {200: ThreadMessages}, PAGE_QUERY, tag="parts"),
        ErrorFormat.PLAIN,
    ),
    Route(
        "DELETE",
        "/api/threads/{id}",
        delete_thread,
        Scope.CHAT,
        RouteDoc("Delete a thread", None, {200: Acknowledgement}, tag="parts"),
        ErrorFormat.PLAIN,
    ),
    Route(
        "POST",
        "/api/threads/{id}/fork",
        fork_thread,
        Scope.CHAT,
        RouteDoc(
            "Part from a thread before a message",
            ForkRequest,
            {200: ThreadSummary},
            tag="parts",
            example={"messageId": "m-1"},
        ),
        ErrorFormat.PLAIN,
    ),
)
