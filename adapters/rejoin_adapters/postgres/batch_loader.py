"""What many ask in one turn of the loop, or while an answer is waited for, asked together.

Owns who asks for whom, and no task: the first one asks for all. Whoever waits may leave at any moment, also
the one who asks for all; the others then begin again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from rejoin_protocol.errors import Unavailable


class _Batch[Q, A]:
    def __init__(self) -> None:
        self.questions: list[Q] = []
        self.answers: Sequence[A] = ()
        self.fault: str | None = None
        self.over = asyncio.Event()


class BatchLoader[Q, A]:
    """`ask` is given some questions, at least one, and returns their answers in the same order."""

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A]]]) -> None:
        self._ask = ask
        self._next: _Batch[Q, A] | None = None
        self._under_way = asyncio.Lock()

    async def ask(self, question: Q) -> A:
        """The answer to this one. Raises `Unavailable` where `ask` does; all else is its own asker's."""
        while True:
            batch = self._next = self._next or _Batch()
            batch.questions.append(question)
            place = len(batch.questions) - 1
            if place:
                await batch.over.wait()
            else:
                await self._ask_for(batch)
            if batch.fault is not None:
                raise Unavailable(batch.fault)
            if batch.answers:
                return batch.answers[place]

    async def _ask_for(self, batch: _Batch[Q, A]) -> None:
        try:
            async with self._under_way:
                await asyncio.sleep(0)  # the others of this turn
                self._next = None
                batch.answers = await self._ask(batch.questions)
        except Unavailable as fault:
            batch.fault = str(fault)
        finally:
            if self._next is batch:
                self._next = None
            batch.over.set()
