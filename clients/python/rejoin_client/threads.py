"""`client.threads`: list, read, fork and delete sessions. Uses the API `/api/threads`."""

import uuid
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from rejoin_client.transport import HttpTransport, Request


class Thread(msgspec.Struct, frozen=True, rename="camel"):
    """A session without its messages."""

    id: str
    created_at: datetime
    updated_at: datetime
    message_count: int
    title: str | None = None
    metadata: Any = None


class RootThread(Thread, frozen=True, kw_only=True):
    """A thread that is no fork. `thread_ids`: itself and its forks. `active_thread_id`: the last changed of
    them.
    """

    thread_ids: list[str]
    active_thread_id: str


class ThreadPage(msgspec.Struct, frozen=True, rename="camel"):
    """A page of threads, the most recently updated first. `next`: pass it as `before` to get the next
    page.
    """

    threads: list[RootThread]
    total: int
    active_stream_ids: list[str]
    next: str | None = None


class ForkReference(msgspec.Struct, frozen=True):
    """A fork of a thread."""

    id: str
    title: str | None = None


class ForkInfo(msgspec.Struct, frozen=True, rename="camel"):
    """Where a fork came from. `fork_point_index`: the index of the first message that was not copied."""

    source_thread_id: str
    fork_point_index: int
    siblings: list[ForkReference]


class ThreadMessages(msgspec.Struct, frozen=True, rename="camel"):
    """A page of a thread's UI messages, oldest first. `next`: pass it as `before` to get the page of older
    ones.

    `forks`: its forks, by the first message that they did not copy. `active`: a run is active. The messages
    do not include its answer; `chat.resume` returns it.
    """

    thread: Thread
    messages: list[dict[str, Any]]
    forks: dict[str, list[ForkReference]]
    fork_info: ForkInfo | None = None
    active: bool = False
    next: str | None = None


class _Forked(msgspec.Struct, frozen=True):
    thread: Thread


class Threads:
    """The caller's sessions."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def list(self, *, limit: int | None = None, before: str | None = None) -> ThreadPage:
        """A page of threads."""
        request = Request(method="GET", path="/api/threads", query=_page_query(limit, before))
        return await self._transport.call(request, ThreadPage)

    async def get(
        self, thread: str, *, limit: int | None = None, before: str | None = None
    ) -> ThreadMessages:
        """A thread with its newest messages, or those before a message. Raises `NotFound`."""
        request = Request(method="GET", path=_path(thread), query=_page_query(limit, before))
        return await self._transport.call(request, ThreadMessages)

    async def fork(self, thread: str, message_id: str, *, into: str | None = None) -> Thread:
        """Copy the messages before `message_id` into a new thread.

        `into`: the new thread's id. Raises `NotFound`, and `Conflict` if a thread has that id.
        """
        body = {"messageId": message_id, "threadId": into or str(uuid.uuid4())}
        request = Request(method="POST", path=f"{_path(thread)}/fork", body=body)
        return (await self._transport.call(request, _Forked)).thread

    async def delete(self, thread: str) -> None:
        """Delete a thread with everything that belongs to it.

        Raises `NotFound`. Raises `Lost` if the connection broke: the thread may be deleted or not.
        """
        request = Request(method="DELETE", path=_path(thread), idempotent=False)
        await self._transport.call(request, dict[str, Any])


def _path(thread: str) -> str:
    return f"/api/threads/{quote(thread, safe='')}"


def _page_query(limit: int | None, before: str | None) -> dict[str, str]:
    values = {"limit": limit, "before": before}
    return {name: str(value) for name, value in values.items() if value is not None}
