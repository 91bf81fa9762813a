"""Who holds up the event loop: a tool that waits without `await` stops every run of its process.

Owns a thread that looks at the loop from outside, for inside nobody can while it lasts: not even a signal to
end is heard then. It tells, and changes nothing.
"""

import asyncio
import sys
import threading
from itertools import islice
from time import monotonic
from traceback import walk_stack

import structlog

BLOCKED_S = 1.0
BEATS = 4
"""Signs of life in so many seconds."""
FRAMES_MAX = 5

log = structlog.get_logger("rejoin.blocked")


async def watch(blocked_s: float = BLOCKED_S) -> None:
    """Say it when this loop stands still for longer, and how long it took in the end. For ever."""
    watched = _WatchedLoop(blocked_s)
    thread = threading.Thread(target=watched.look, name="blocked", daemon=True)
    thread.start()
    try:
        while True:
            await asyncio.sleep(blocked_s / BEATS)
            watched.beat()
    finally:
        watched.over.set()
        thread.join()


class _WatchedLoop:
    """The loop that runs here, as two threads know it."""

    def __init__(self, blocked_s: float) -> None:
        self.over = threading.Event()
        self._blocked_s = blocked_s
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._seen = monotonic()
        self._told = False

    def beat(self) -> None:
        """It is alive."""
        if self._told:
            log.warning("event_loop_unblocked", seconds=round(monotonic() - self._seen, 1))
        self._seen, self._told = monotonic(), False

    def look(self) -> None:
        """From the other thread."""
        while not self.over.wait(self._blocked_s / BEATS):
            if not self._told and monotonic() - self._seen > self._blocked_s:
                self._told = True
                self._tell()

    def _tell(self) -> None:
        task = asyncio.current_task(self._loop)
        frame = sys._current_frames().get(self._thread)  # noqa: SLF001 - documented, and the only way
        stack = islice(walk_stack(frame), FRAMES_MAX)
        log.warning(
            "event_loop_blocked",
            seconds=self._blocked_s,
            task=None if task is None else task.get_name(),
            where=[f"{one.f_code.co_filename}:{line} {one.f_code.co_name}" for one, line in stack],
        )
