"""The edge between the runner and the application's code: models, tools, loops, and functions of an agent.

Python has exceptions that are no `Exception`: SystemExit and KeyboardInterrupt end the event loop, and
CancelledError ends a task; an `except Exception` lets all of them pass. Raised by one tool, they would end
the process with every run in it. At this edge each of them becomes `ApplicationGaveUp`, the failure of that
call or step alone.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import msgspec

from rejoin_protocol.ids import CallId
from rejoin_runner.output.bounded_work import is_bounded_work


class RunningCode(msgspec.Struct, frozen=True):
    """Which code of the application a task runs."""

    name: str
    """For people, for example `the tool search`."""
    call: CallId | None = None
    """The tool call, if it is one."""


running_code: ContextVar[RunningCode | None] = ContextVar("rejoin_running_code", default=None)
"""The present task's. Another thread reads it from the task's context."""


class ApplicationGaveUp(Exception):
    """The application's code raised what is no `Exception`; that is the cause of this exception."""


class application_code:  # noqa: N801 - used as a context manager: `with application_code(…):`
    """A block that runs code of the application, with or without `await`. Raises `ApplicationGaveUp` for an
    exception that is no `Exception`, except for the cancellation of this task by the runner.

    `code` is what an observer of the task is told. An async generator must not `yield` in the block: closing
    the generator raises GeneratorExit there.
    """

    def __init__(self, code: RunningCode) -> None:
        self._code = code

    def __enter__(self) -> Self:
        self._task = _current_task()
        self._token = running_code.set(self._code)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ValueError):  # a coroutine that is closed elsewhere has another context
            running_code.reset(self._token)
        match fault:
            case None | Exception():
                return
            case asyncio.CancelledError() if self._task is not None and self._task.cancelling():
                return
            case GeneratorExit() if _current_task() is not self._task:
                return  # the interpreter closes this coroutine, whose task does not run any more
        raise ApplicationGaveUp(f"it raised {type(fault).__name__}") from fault


def make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """A task factory for an event loop that runs the application's code: a task that a tool or a model starts
    fails with `ApplicationGaveUp` instead of ending the loop.
    """
    if is_bounded_work(options.get("context")) and asyncio.iscoroutine(work):
        work = _contain(work)
    return asyncio.Task(work, loop=loop, **options)


async def _contain(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except (SystemExit, KeyboardInterrupt) as fault:  # asyncio lets no other exception out of a task
        raise ApplicationGaveUp(f"it raised {type(fault).__name__}") from fault


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
