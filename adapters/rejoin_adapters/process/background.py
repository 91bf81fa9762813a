"""Background tasks for the time of a block. The only form of concurrency here besides `asyncio.TaskGroup`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import Context
from types import TracebackType
from typing import Any, Self

import msgspec

type Work = Coroutine[Any, Any, None]


@asynccontextmanager
async def run_alongside(*work: Work) -> AsyncIterator[Callable[[Work], None]]:
    """Run `work` during the block, and what the block adds with the function that it gets. It is cancelled at
    the end of the block; if it fails, the block is cancelled.

    A single exception is raised as it is, not in a group: the caller need not know of the tasks.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
            yield lambda added: tasks.append(group.create_task(added))
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) > 1:
            raise
        raise errors.exceptions[0] from None


class Outcome[T](msgspec.Struct, frozen=True):
    """What a detached task returned or raised."""

    value: T | None = None
    fault: Exception | None = None

    def get(self) -> T:
        """Return or raise it."""
        if self.fault is not None:
            raise self.fault
        return self.value  # type: ignore[return-value]


class DetachedTasks:
    """Tasks that outlive the code that starts them, until the context ends, which waits for them. A task that
    fails disturbs no other one. The context may be entered again after its end.
    """

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()
        self.is_open = False

    async def __aenter__(self) -> Self:
        self._group = asyncio.TaskGroup()
        await self._group.__aenter__()
        self.is_open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.is_open = False
        try:
            await self._group.__aexit__(kind, error, trace)
        except BaseExceptionGroup:
            if error is None:  # else the group holds the block's own error, which goes on by itself
                raise

    def start[T](
        self, work: Coroutine[Any, Any, T], context: Context | None = None
    ) -> asyncio.Task[Outcome[T]]:
        """Start the work. Cancelling the task cancels the work. Call it only while the context is open."""
        return self._group.create_task(_capture_outcome(work), context=context)


async def _capture_outcome[T](work: Coroutine[Any, Any, T]) -> Outcome[T]:
    try:
        return Outcome(await work)
    except Exception as fault:  # noqa: BLE001 - whoever started the work gets it, if anybody still waits
        return Outcome(fault=fault)
