"""Reports a blocked event loop: a tool that waits without `await` stops every run of its process.

A thread watches the loop from outside, because a blocked loop runs no code of its own, not even a signal
handler. The watchdog only logs: it cannot interrupt the code that blocks.
"""

import asyncio
import sys
import threading
from itertools import islice
from time import monotonic
from traceback import walk_stack

import structlog

BLOCKED_S = 1.0
BEATS_PER_LIMIT = 4
"""The loop gives this many signs of life in `blocked_s`; the thread looks equally often."""
FRAMES_MAX = 5

log = structlog.get_logger("rejoin.loop_watchdog")


async def watch(blocked_s: float = BLOCKED_S) -> None:
    """Log `event_loop_blocked` when this event loop stands still for longer than `blocked_s`, with the task
    and the stack that block it, and `event_loop_unblocked` afterwards. Runs until cancelled.
    """
    watchdog = _LoopWatchdog(blocked_s)
    thread = threading.Thread(target=watchdog.observe, name="loop-watchdog", daemon=True)
    thread.start()
    try:
        while True:
            await asyncio.sleep(blocked_s / BEATS_PER_LIMIT)
            watchdog.beat()
    finally:
        watchdog.stopped.set()
        thread.join()


class _LoopWatchdog:
    """The state that the loop's thread and the observing thread share. Each attribute has one writer at a
    time, and a lost update only repeats a log line.
    """

    def __init__(self, blocked_s: float) -> None:
        self.stopped = threading.Event()
        self._blocked_s = blocked_s
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._last_beat_s = monotonic()
        self._reported = False

    def beat(self) -> None:
        """Give a sign of life. Called in the loop."""
        if self._reported:
            log.warning("event_loop_unblocked", seconds=round(monotonic() - self._last_beat_s, 1))
        self._last_beat_s, self._reported = monotonic(), False

    def observe(self) -> None:
        """Watch for missing beats until `stopped` is set. Called in the observing thread."""
        while not self.stopped.wait(self._blocked_s / BEATS_PER_LIMIT):
            if not self._reported and monotonic() - self._last_beat_s > self._blocked_s:
                self._reported = True
                self._report()

    def _report(self) -> None:
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - documented, and the only way
        stack = islice(walk_stack(frame), FRAMES_MAX)
        log.warning(
            "event_loop_blocked",
            seconds=self._blocked_s,
            task=None if task is None else task.get_name(),
            where=[f"{frame.f_code.co_filename}:{line} {frame.f_code.co_name}" for frame, line in stack],
        )
