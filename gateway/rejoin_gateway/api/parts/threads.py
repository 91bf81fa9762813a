"""The parts API's threads: sessions listed, read, forked and deleted."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from rejoin_adapters.records import SessionSummary
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import MessageId, session_id

from rejoin_gateway.api.shared.answers import Acknowledgement
from rejoin_gateway.api.shared.lookup import summary_in_path
from rejoin_gateway.api.shared.paging import LIMIT_MAX, PAGE_QUERY, page_of_messages, page_of_sessions
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.message_input import new_session_id
from rejoin_gateway.http.request import decode_body
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import ErrorFormat, Route, RouteDoc


class ThreadSummary(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A thread without its messages."""

    id: str
    created_at: datetime
    updated_at: datetime
    message_count: int
    title: str | None = None
    metadata: Any = None


class ThreadList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of threads. `next`: the `before` of the following page; absent on the last one."""

    threads: list[ThreadSummary]
    next: str | None = None


class ThreadMessages(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A thread with a page of its messages, oldest first. A tool call that waits for a decision is a part in
    state `approval-requested`.
    """

    id: str
    messages: Sequence[UIMessage]
    created_at: datetime
    updated_at: datetime
    title: str | None = None
    active: bool = False
    next: str | None = None


class ForkRequest(msgspec.Struct, frozen=True, rename="camel"):
    """`messageId`: the first message that is not copied. `threadId`: the new thread's id, else a new UUID."""

    message_id: str
    thread_id: str | None = None


async def list_threads(request: web.Request) -> web.StreamResponse:
    """The caller's threads, the last changed first."""
    page = await page_of_sessions(request)
    return json_response(ThreadList([_to_summary(summary) for summary in page.sessions], page.next))


async def get_thread(request: web.Request) -> web.StreamResponse:
    """A thread with a page of its messages."""
    summary, page = await page_of_messages(request, LIMIT_MAX)
    return json_response(
        ThreadMessages(
            summary.id,
            page.messages,
            summary.created_at,
            summary.updated_at,
            summary.title,
            summary.busy,
            page.next,
        )
    )


async def delete_thread(request: web.Request) -> web.StreamResponse:
    """Delete a thread with everything that belongs to it."""
    _, session = await summary_in_path(request)
    await session.delete()
    return json_response(Acknowledgement())


async def fork_thread(request: web.Request) -> web.StreamResponse:
    """Copy the messages before one message into a new thread."""
    fork = await decode_body(request, ForkRequest)
    if not fork.message_id:
        raise Invalid("messageId is required", "/messageId")
    _, session = await summary_in_path(request)
    into = session_id(fork.thread_id or new_session_id())
    return json_response(_to_summary(await session.fork(MessageId(fork.message_id), into)))


def _to_summary(summary: SessionSummary) -> ThreadSummary:
    return ThreadSummary(
        summary.id,
        summary.created_at,
        summary.updated_at,
        summary.messages,
        summary.title,
        summary.metadata,
    )


ROUTES = (
    Route(
        "GET",
        "/api/threads",
        list_threads,
        Scope.CHAT,
        RouteDoc(
            "List threads",
            description="Returns the caller's sessions page by page, the last changed first, without their "
            "messages. Use it for a list of chats. A page token in `next` leads to the following page.",
            responses={200: ThreadList},
            query=PAGE_QUERY,
            tag="parts",
        ),
        ErrorFormat.PLAIN,
    ),
    Route(
        "GET",
        "/api/threads/{id}",
        get_thread,
        Scope.CHAT,
        RouteDoc(
            "Read a thread's messages",
            description=f"Returns the newest {LIMIT_MAX} messages, oldest first, or the page before a page "
            "token. While `active` is true, the answer in progress is not among the messages.",
            responses={200: ThreadMessages},
            query=PAGE_QUERY,
            tag="parts",
        ),
        ErrorFormat.PLAIN,
    ),
    Route(
        "DELETE",
        "/api/threads/{id}",
        delete_thread,
        Scope.CHAT,
        RouteDoc(
            "Delete a thread",
            description="Deletes the thread with its messages, runs, logs and files, and stops its active "
            "run. It cannot be undone.",
            responses={200: Acknowledgement},
            tag="parts",
        ),
        ErrorFormat.PLAIN,
    ),
    Route(
        "POST",
        "/api/threads/{id}/fork",
        fork_thread,
        Scope.CHAT,
        RouteDoc(
            "Fork a thread before a message",
            description="Copies the messages strictly before `messageId` into a new thread and returns it. "
            "Use it to try another question without losing the old answers. The same request again "
            "returns the same thread.",
            body=ForkRequest,
            responses={200: ThreadSummary},
            tag="parts",
            example={"messageId": "m-1"},
        ),
        ErrorFormat.PLAIN,
    ),
)
