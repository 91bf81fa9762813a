"""Keeps what is costly to make for its next use, for a bounded time. Makes and ends nothing itself."""

import asyncio
from collections.abc import Callable


class IdlePool[T]:
    """Things without work. `end` is called with one that has had none for `idle_s`."""

    def __init__(self, idle_s: float, end: Callable[[T], object]) -> None:
        self._idle_s = idle_s
        self._end = end
        self._kept: list[tuple[T, asyncio.TimerHandle]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def take(self) -> T | None:
        """The thing that was kept last; None without one. The caller has it alone, until it is kept again."""
        if not self._kept:
            return None
        thing, timer = self._kept.pop()
        timer.cancel()
        return thing

    def keep(self, thing: T) -> None:
        """Keep a thing from now on."""
        self._kept.append((thing, asyncio.get_running_loop().call_later(self._idle_s, self._expire, thing)))

    def _expire(self, thing: T) -> None:
        self._kept = [entry for entry in self._kept if entry[0] is not thing]
        self._end(thing)
