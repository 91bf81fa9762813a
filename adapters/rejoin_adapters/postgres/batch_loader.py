"""Coalesces concurrent look-ups into one query.

The first caller runs the query for all callers of the same event-loop iteration, and for those that arrive
while an earlier query is running; there is no background task. Any caller may be cancelled at any time. If
the one that runs the query is cancelled, the others start over.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rejoin_protocol.errors import Unavailable


class _Batch[K, V]:
    def __init__(self) -> None:
        self.keys: list[K] = []
        self.values: Sequence[V] = ()
        self.error: str | None = None
        self.done = asyncio.Event()


class BatchLoader[K, V]:
    """`load_many` gets at least one key and returns the values in the order of the keys."""

    def __init__(self, load_many: Callable[[Sequence[K]], Awaitable[Sequence[V]]]) -> None:
        self._load_many = load_many
        self._next: _Batch[K, V] | None = None
        self._running = asyncio.Lock()

    async def load(self, key: K) -> V:
        """The value of one key. Raises `Unavailable` if `load_many` does; every other error is raised only in
        the caller that ran the query.
        """
        while True:
            batch = self._next = self._next or _Batch()
            batch.keys.append(key)
            index = len(batch.keys) - 1
            if index:
                await batch.done.wait()
            else:
                await self._load_batch(batch)
            if batch.error is not None:
                raise Unavailable(batch.error)
            if batch.values:
                return batch.values[index]
            # Neither values nor an error: the caller that ran the query was cancelled.

    async def _load_batch(self, batch: _Batch[K, V]) -> None:
        try:
            async with self._running:
                await asyncio.sleep(0)  # let the other callers of this iteration join
                self._next = None
                batch.values = await self._load_many(batch.keys)
        except Unavailable as error:
            batch.error = str(error)
        finally:
            if self._next is batch:
                self._next = None
            batch.done.set()
