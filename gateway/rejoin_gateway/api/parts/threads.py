"""The parts API's threads: sessions listed, read, forked and deleted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from rejoin_adapters.store_types import Fork, SessionSummary
from rejoin_gateway.api.shared.answers import Acknowledgement
from rejoin_gateway.api.shared.lookup import directory_of, session_by_id, summary_in_path
from rejoin_gateway.api.shared.paging import LIMIT_MAX, PAGE_QUERY, page_of_messages, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core.answered_calls import RESPONDED
from rejoin_gateway.core.message_input import new_session_id
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.request import decode_body
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import ErrorFormat, Route, RouteDoc
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.events.fold import MessageDict, Part
from rejoin_protocol.ids import MessageId, session_id
from rejoin_protocol.limits import CheckedId, Id

THREADS_DEFAULT = 100
TOTAL_MAX = 10_000
THREAD_MESSAGES_DEFAULT = 10_000
"""The client of this API reads a thread whole, and finds a message in it by its index."""
NO_THREAD = "Thread not found"
NO_MESSAGE = "Message not found in thread"
NO_MESSAGE_ID = "messageId is required"


class ThreadSummary(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A thread without its messages."""

    id: str
    created_at: datetime
    updated_at: datetime
    message_count: int
    title: str | None = None
    metadata: Any = None


class RootThread(ThreadSummary, frozen=True, kw_only=True):
    """A thread that is no fork. `threadIds`: itself, its forks and the forks of those. `activeThreadId`: the
    one of them that changed last.
    """

    thread_ids: Sequence[str]
    active_thread_id: str


class ThreadList(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A page of threads. `activeStreamIds`: the threads and forks on the page that are being answered.

    `total` counts all threads, up to a bound. `page` is always 0: the following page is requested by the
    token in `next`, which the last page lacks.
    """

    threads: list[RootThread]
    total: int
    page: int
    per_page: int
    has_more: bool
    active_stream_ids: Sequence[str]
    next: str | None = None


class ForkReference(msgspec.Struct, frozen=True, omit_defaults=True):
    """A fork."""

    id: str
    title: str | None = None


class ForkInfo(msgspec.Struct, frozen=True, rename="camel"):
    """Where a fork came from. `forkPointIndex`: the index of the first message that differs. `siblings`:
    other forks of the same thread before the same message.
    """

    source_thread_id: str
    fork_point_index: int
    siblings: list[ForkReference]


class ThreadMessages(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A thread with its messages, oldest first. A tool call that waits for a decision is a part in state
    `approval-requested`.

    `forks`: the thread's forks by the first message that they did not copy. `forkInfo`: null for a thread
    that is no fork. `active`: the answer in progress is not among the messages. `next`: the token of a page
    of older messages, if there are any.
    """

    thread: ThreadSummary
    messages: Sequence[MessageDict]
    forks: dict[str, list[ForkReference]]
    fork_info: ForkInfo | None
    active: bool
    next: str | None = None


class ForkedThread(msgspec.Struct, frozen=True, rename="camel"):
    """A new thread, and how many messages were copied into it."""

    thread: ThreadSummary
    cloned_message_count: int


class ForkRequest(msgspec.Struct, frozen=True, rename="camel"):
    """`messageId`: the first message that is not copied. `threadId`: the new thread's id, else a new UUID."""

    message_id: Id
    thread_id: CheckedId | None = None


async def list_threads(request: web.Request) -> web.StreamResponse:
    """The caller's threads that are no forks, the last changed first."""
    limit, before = parse_limit(request, THREADS_DEFAULT), request.query.get("before")
    directory = directory_of(request)
    page, forks = await directory.root_sessions(limit=limit, before=before)
    is_whole = before is None and page.next is None
    total = len(page.sessions) if is_whole else await directory.count_sessions(TOTAL_MAX, roots=True)
    both: list[SessionSummary | Fork] = [*page.sessions, *forks]
    active = [one.id for one in both if one.is_busy]
    threads = [_to_root(root, [fork for fork in forks if fork.root == root.id]) for root in page.sessions]
    return json_response(ThreadList(threads, total, 0, limit, page.next is not None, active, page.next))


async def get_thread(request: web.Request) -> web.StreamResponse:
    """A thread with its messages."""
    with _explain_missing(NO_THREAD):
        summary, page = await page_of_messages(request, THREAD_MESSAGES_DEFAULT)
    session = await session_by_id(request, summary.id)
    forks: dict[str, list[ForkReference]] = {}
    for fork in await session.forks():
        if fork.source == session.id:
            forks.setdefault(fork.before, []).append(ForkReference(fork.id, fork.title))
    return json_response(
        ThreadMessages(
            _to_summary(summary),
            list(map(_to_message, page.messages)),
            forks,
            await _fork_info(session),
            summary.is_busy,
            page.next,
        )
    )


async def _fork_info(session: Session) -> ForkInfo | None:
    origin = await session.origin()
    if origin is None:
        return None
    others = await msgspec.structs.replace(session, id=origin.source).forks()
    siblings = [
        ForkReference(fork.id, fork.title)
        for fork in others
        if (fork.source, fork.before) == (origin.source, origin.before) and fork.id != session.id
    ]
    return ForkInfo(origin.source, origin.copied, siblings)


async def delete_thread(request: web.Request) -> web.StreamResponse:
    """Delete a thread with everything that belongs to it."""
    with _explain_missing(NO_THREAD):
        _, session = await summary_in_path(request)
    await session.delete()
    return json_response(Acknowledgement())


async def fork_thread(request: web.Request) -> web.StreamResponse:
    """Copy the messages before one message into a new thread."""
    try:
        fork = await decode_body(request, ForkRequest)
    except Invalid as fault:
        raise Invalid(NO_MESSAGE_ID, "/messageId") if fault.pointer in ("", "/messageId") else fault from None
    if not fork.message_id:
        raise Invalid(NO_MESSAGE_ID, "/messageId")
    with _explain_missing(NO_THREAD):
        _, session = await summary_in_path(request)
    into = session_id(fork.thread_id or new_session_id())
    with _explain_missing(NO_MESSAGE):
        made = await session.fork(MessageId(fork.message_id), into)
    return json_response(ForkedThread(_to_summary(made), made.messages))


@contextmanager
def _explain_missing(text: str) -> Iterator[None]:
    """A `NotFound` in the words of this API."""
    try:
        yield
    except NotFound:
        raise NotFound(text) from None


def _to_root(root: SessionSummary, forks: Sequence[Fork]) -> RootThread:
    family: list[SessionSummary | Fork] = [root, *forks]
    newest = max(family, key=lambda one: one.updated_at)
    return RootThread(
        **msgspec.structs.asdict(_to_summary(root)),
        thread_ids=[one.id for one in family],
        active_thread_id=newest.id,
    )


def _to_message(message: MessageDict) -> MessageDict:
    return message | {"parts": list(map(_to_part, message["parts"]))}


def _to_part(part: Part) -> Part:
    """A part in this API's form. Its client sends the answer of an `approval-responded` call for ever, so a
    decided call is shown as one that has its input, or is denied.
    """
    if part.get("state") != RESPONDED:
        return part
    return part | {"state": "input-available" if part["approval"]["approved"] else "output-denied"}


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
            "messages. Forks are named by the thread that they come from. A page token in `next` leads to "
            "the following page.",
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
            description=f"Returns the messages, oldest first: the newest {THREAD_MESSAGES_DEFAULT:,}, or a "
            f"page of at most {LIMIT_MAX} if `limit` is given. While `active` is true, the answer in "
            "progress is not among the messages.",
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
            responses={200: ForkedThread},
            tag="parts",
            example={"messageId": "m-1"},
        ),
        ErrorFormat.PLAIN,
    ),
)
