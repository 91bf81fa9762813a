"""Sessions as people see them: listed, read, forked, deleted. Speaks the family of `/api/threads`."""

import uuid
from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from rejoin_client.wire import Ask, Wire


class Thread(msgspec.Struct, frozen=True, rename="camel"):
    """A thread at a glance."""

    id: str
    created_at: datetime
    updated_at: datetime
    message_count: int
    title: str | None = None
    metadata: Any = None


class ThreadPage(msgspec.Struct, frozen=True, rename="camel"):
    """Threads, the one that changed last first. `next` is the `before` of the following page."""

    threads: list[Thread]
    next: str | None = None


class ThreadMessages(msgspec.Struct, frozen=True, rename="camel"):
    """A page of a thread's UI messages, oldest first; `next` is the `before` of older ones.

    `active`: a run is going on, and its answer is not among them: `chat.resume` has it.
    """

    id: str
    messages: list[dict[str, Any]]
    created_at: datetime
    updated_at: datetime
    title: str | None = None
    active: bool = False
    next: str | None = None


class Threads:
    """`client.threads`."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    async def list(self, *, limit: int | None = None, before: str | None = None) -> ThreadPage:
        """A page of the caller's threads."""
        ask = Ask(method="GET", path="/api/threads", query=_page(limit, before))
        return await self._wire.call(ask, ThreadPage)

    async def get(
        self, thread: str, *, limit: int | None = None, before: str | None = None
    ) -> ThreadMessages:
        """A thread with its newest messages, or those before. Raises `NotFound`."""
        ask = Ask(method="GET", path=_at(thread), query=_page(limit, before))
        return await self._wire.call(ask, ThreadMessages)

    async def fork(self, thread: str, message_id: str, *, into: str | None = None) -> Thread:
        """A new thread with the messages strictly before one. Raises `NotFound`, `Conflict` if it exists."""
        body = {"messageId": message_id, "threadId": into or str(uuid.uuid4())}
        return await self._wire.call(Ask(method="POST", path=f"{_at(thread)}/fork", body=body), Thread)

    async def delete(self, thread: str) -> None:
        """Delete a thread and everything that belongs to it. Raises `NotFound`, and `Lost` if nobody said
        whether it was done.
        """
        ask = Ask(method="DELETE", path=_at(thread), again=False)
        await self._wire.call(ask, dict[str, Any])


def _at(thread: str) -> str:
    return f"/api/threads/{quote(thread, safe='')}"


def _page(limit: int | None, before: str | None) -> dict[str, str]:
    asked = {"limit": limit, "before": before}
    return {name: str(value) for name, value in asked.items() if value is not None}
