"""A bound on all the waits for one answer: one alarm, where `asyncio.timeout` would set one for each of them.

Nothing that happens between two waits is cut off: who passes on what came may take its time, and learns at
the next wait that there is none left.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import TracebackType


class Deadline:
    """`seconds` from now on for what is awaited inside of it, however often it is entered: `TimeoutError`.

    Close it at the end.
    """

    def __init__(self, seconds: float) -> None:
        self._alarm = asyncio.get_running_loop().call_later(seconds, self._ring)
        self._inside: asyncio.Task[object] | None = None
        self._cancels = 0
        self._over = False

    def close(self) -> None:
        """No alarm any more."""
        self._alarm.cancel()

    def __enter__(self) -> None:
        if self._over:
            raise TimeoutError
        self._inside = asyncio.current_task()
        self._cancels = self._inside.cancelling() if self._inside is not None else 0

    def __exit__(
        self, cause: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._inside = self._inside, None
        if self._over and task is not None:
            others = task.uncancel() > self._cancels  # as `asyncio.timeout` sees to it that none is cheated
            if cause is asyncio.CancelledError and not others:
                raise TimeoutError from value

    def _ring(self) -> None:
        self._over = True
        if self._inside is not None:
            self._inside.cancel()


async def iterate_within[T](items: AsyncIterator[T], limit: Deadline) -> AsyncGenerator[T]:
    """The items, each waited for within the limit."""
    while True:
        with limit:
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
        yield item
