"""The time limits of all the waits for one answer: one timer, where `asyncio.timeout` sets one per wait, and
aiohttp's `sock_read` one per read.

Code between two waits is not interrupted: it may take its time, and the next wait then fails at once.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType


class Silence(TimeoutError):
    """One wait has taken too long, while there was time left for all of them."""


class Deadline:
    """Raises `TimeoutError` in a wait inside its `with` block once `seconds` have passed since its creation,
    and `Silence` once the wait itself has taken `silence_s`.

    The block may be entered any number of times. Call `close` at the end.
    """

    def __init__(self, seconds: float, silence_s: float = math.inf) -> None:
        self._loop = asyncio.get_running_loop()
        self._silence_s = silence_s
        self._end_s = self._loop.time() + seconds
        self._timer = self._loop.call_later(min(seconds, silence_s), self._look)
        self._task: asyncio.Task[object] | None = None
        self._cancels_before = 0
        self._waits_since_s = 0.0
        self._error: type[TimeoutError] | None = None

    def close(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def __enter__(self) -> None:
        if self._error is not None:
            raise self._error
        self._task = asyncio.current_task()
        self._cancels_before = self._task.cancelling() if self._task is not None else 0
        self._waits_since_s = self._loop.time()

    def __exit__(
        self, cause: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._error is not None and task is not None:
            # As in `asyncio.timeout`: a cancellation from elsewhere must not become a timeout.
            cancelled_elsewhere = task.uncancel() > self._cancels_before
            if cause is asyncio.CancelledError and not cancelled_elsewhere:
                raise self._error from value

    def _look(self) -> None:
        """End the wait, or look again when its time can be over: each wait begins without a timer."""
        now_s = self._loop.time()
        silent_s = (now_s if self._task is None else self._waits_since_s) + self._silence_s
        if min(self._end_s, silent_s) > now_s:
            self._timer = self._loop.call_at(min(self._end_s, silent_s), self._look)
        else:
            self._expire(TimeoutError if self._end_s <= now_s else Silence)

    def _expire(self, error: type[TimeoutError]) -> None:
        self._error = error
        if self._task is not None:
            self._task.cancel()


async def iterate_within[T](items: AsyncIterator[T], deadline: Deadline) -> AsyncGenerator[T]:
    """The items; waiting for each is subject to the deadline. Raises `TimeoutError`."""
    while True:
        with deadline:
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        yield item
