"""Work that ends when its run does: a model's response, an application's own loop, the calls of tools.

Applications' code may ignore its cancellation. Work that is interrupted gets `GRACE_S` to clean up and
return. If it does not, it is abandoned: it goes on in its own task, nothing waits for it, and what it still
writes is refused. Otherwise a tool that swallows `CancelledError` would keep its run, and with it the
session, from ending.
"""

import asyncio
from collections.abc import Coroutine
from contextvars import Context, ContextVar, copy_context
from enum import Enum, auto
from typing import Any

import structlog

from rejoin_adapters.process.background import DetachedTasks

GRACE_S = 0.5

log = structlog.get_logger("rejoin.run")


class WorkAbandoned(RuntimeError):
    """The work that writes was abandoned: its run goes on, or has ended, without it."""


class WorkEnd(Enum):
    """How bounded work ended. `INTERRUPTED` and `LATE` also if it was abandoned."""

    DONE = auto()
    INTERRUPTED = auto()
    LATE = auto()


class _Scope:
    """Shared by a piece of work and all tasks and threads that it starts. Inner work has both scopes."""

    def __init__(self, outer: "_Scope | None") -> None:
        self._outer = outer
        self._abandoned = False

    @property
    def abandoned(self) -> bool:
        """Whether this work, or the work that it is part of, was abandoned."""
        return self._abandoned or (self._outer is not None and self._outer.abandoned)

    def abandon(self) -> None:
        """Refuse what the work still writes."""
        log.warning("work_abandoned")
        self._abandoned = True


_scope: ContextVar[_Scope | None] = ContextVar("rejoin_work", default=None)


def refuse_if_abandoned() -> None:
    """Raises `WorkAbandoned` if the caller belongs to work that was abandoned."""
    scope = _scope.get()
    if scope is not None and scope.abandoned:
        raise WorkAbandoned("the run has gone on without this work: it cannot emit anything more")


def is_bounded_work(context: Context | None) -> bool:
    """Whether code in this context (None: the present one) is part of bounded work."""
    return (_scope.get() if context is None else context.get(_scope)) is not None


async def run_bounded(
    work: Coroutine[Any, Any, None],
    tasks: DetachedTasks,
    interrupted: asyncio.Future[None],
    deadline_s: float | None,
    grace_s: float = GRACE_S,
) -> WorkEnd:
    """Run the work until it ends, `interrupted` is done, or the loop's clock reaches `deadline_s`. Raises
    what the work raises. Abandoned work stays among `tasks`.

    If this call itself is cancelled, because the runner drains or has lost the run, it waits for the work:
    another runner may start the same calls again, and must not do so while they still run here.
    """
    loop = asyncio.get_running_loop()
    context, scope = _open_scope()
    task = tasks.start(work, context)
    timeout_s = None if deadline_s is None else max(0.0, deadline_s - loop.time())
    ends: list[asyncio.Future[Any]] = [task, interrupted]
    try:
        await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        end = WorkEnd.DONE if task.done() else WorkEnd.INTERRUPTED if interrupted.done() else WorkEnd.LATE
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=grace_s)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    if not task.done():
        scope.abandon()
    elif not task.cancelled():
        task.result().get()
    return end


async def run_in_time[T](
    work: Coroutine[Any, Any, T], tasks: DetachedTasks, timeout_s: float | None, grace_s: float = GRACE_S
) -> T:
    """Await work that ends itself after `timeout_s`. Work that has not done so after the grace, for example
    because it ignores its cancellation, is abandoned. Raises `TimeoutError` then, and what the work raises.
    """
    if timeout_s is None:
        return await work
    context, scope = _open_scope()
    task = tasks.start(work, context)
    try:
        await asyncio.wait([task], timeout=timeout_s + grace_s)
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    if task.done():
        return task.result().get()
    task.cancel()
    scope.abandon()
    raise TimeoutError


def _open_scope() -> tuple[Context, _Scope]:
    context, scope = copy_context(), _Scope(_scope.get())
    context.run(_scope.set, scope)
    return context, scope
