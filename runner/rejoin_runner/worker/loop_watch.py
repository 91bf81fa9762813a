"""Watches an event loop from another thread: whether it runs, and which code blocks it.

A blocked loop runs no code of its own, not even a signal handler, so only another thread can see it. The
watch cannot interrupt the code that blocks.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from time import monotonic
from traceback import walk_stack

import structlog

from rejoin_runner.application_code import RunningCode, running_code
from rejoin_runner.worker.lease import RunLease, current_lease

REPORTED_S = 1.0
"""A loop that is blocked for longer is logged."""
STACK_FRAMES_MAX = 5

log = structlog.get_logger("rejoin.loop_watch")


class LoopWatch:
    """Watches one event loop. All methods are called in the watching thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, thread: int, *, reported_s: float = REPORTED_S
    ) -> None:
        self.loop = loop
        self._thread = thread
        self._reported_s = reported_s
        self._asked_s: float | None = None
        """When the loop was asked for an answer that it has not given yet."""
        self._reported = False
        self._when_free: set[Callable[[], object]] = set()

    def look(self) -> float:
        """For how many seconds the loop has not answered. Asks it again. Logs
        `event_loop_blocked` once, with the task and the stack that block it, and `event_loop_unblocked`.
        """
        asked_s = self._asked_s  # the loop may answer at any time
        if asked_s is None:
            asked_s = self._asked_s = monotonic()
            self._call(self._answer)
        blocked_s = monotonic() - asked_s
        if blocked_s > self._reported_s and not self._reported:
            self._reported = True
            self._report()
        return blocked_s

    def call_when_free(self, function: Callable[[], object]) -> None:
        """Call a function in the loop as soon as it runs again, before it reads what has arrived meanwhile.
        A function that waits already is called once.
        """
        if function not in self._when_free:
            self._when_free.add(function)
            self._call(partial(self._call_once, function))

    def find_blocker(self) -> tuple[RunLease, RunningCode] | None:
        """The run, and the application's code in it, that the loop executes now; None if it is not one."""
        task = asyncio.current_task(self.loop)
        if task is None:
            return None
        context = task.get_context()
        lease, code = context.get(current_lease), context.get(running_code)
        return None if lease is None or code is None else (lease, code)

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: its process ends
            self.loop.call_soon_threadsafe(function)

    def _call_once(self, function: Callable[[], object]) -> None:
        self._when_free.discard(function)
        function()

    def _answer(self) -> None:
        if self._reported and self._asked_s is not None:
            log.warning("event_loop_unblocked", seconds=round(monotonic() - self._asked_s, 1))
        self._asked_s, self._reported = None, False

    def _report(self) -> None:
        task = asyncio.current_task(self.loop)
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - documented, and the only way
        stack = islice(walk_stack(frame), STACK_FRAMES_MAX)
        log.warning(
            "event_loop_blocked",
            seconds=self._reported_s,
            task=None if task is None else task.get_name(),
            where=[f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in stack],
        )
