"""One time limit for all the waits for one answer: one timer, where `asyncio.timeout` sets one per wait.

Code between two waits is not interrupted: it may take its time, and the next wait then fails at once.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType


class Deadline:
    """Raises `TimeoutError` in a wait inside its `with` block once `seconds` have passed since its creation.

    The block may be entered any number of times. Call `close` at the end.
    """

    def __init__(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)
        self._task: asyncio.Task[object] | None = None
        self._cancels_before = 0
        self._expired = False

    def close(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def __enter__(self) -> None:
        if self._expired:
            raise TimeoutError
        self._task = asyncio.current_task()
        self._cancels_before = self._task.cancelling() if self._task is not None else 0

    def __exit__(
        self, cause: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._expired and task is not None:
            # As in `asyncio.timeout`: a cancellation from elsewhere must not become a timeout.
            cancelled_elsewhere = task.uncancel() > self._cancels_before
            if cause is asyncio.CancelledError and not cancelled_elsewhere:
                raise TimeoutError from value

    def _expire(self) -> None:
        self._expired = True
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
