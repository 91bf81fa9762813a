"""Concurrent look-ups share one query. A cancelled caller does not fail the others."""

import asyncio
from collections.abc import Sequence

import pytest

from rejoin_adapters.postgres.batch_loader import BatchLoader
from rejoin_protocol.errors import Unavailable

SOON_S = 5.0


class Oracle:
    """Doubles what it is asked, once it may."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def ask(self, questions: Sequence[int]) -> list[int]:
        self.asked.append(list(questions))
        await self.free.wait()
        if 13 in questions:
            raise Unavailable("not that one")
        return [2 * question for question in questions]


async def turns(count: int) -> None:
    """So many of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_questions_of_one_turn_are_asked_once_and_each_has_its_answer() -> None:
    oracle = Oracle()
    together = BatchLoader(oracle.ask)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(together.load(number)) for number in range(10)]
    assert [task.result() for task in tasks] == [2 * number for number in range(10)]
    assert await together.load(7) == 14
    assert oracle.asked == [list(range(10)), [7]]


async def test_what_is_asked_while_others_wait_is_asked_next_and_together() -> None:
    oracle = Oracle()
    oracle.free.clear()
    together = BatchLoader(oracle.ask)
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(together.load(number)) for number in (1, 2)]
        for number in (3, 4):
            await turns(3)
            tasks.append(group.create_task(together.load(number)))
        await turns(3)
        oracle.free.set()
    assert (oracle.asked, [task.result() for task in tasks]) == ([[1, 2], [3, 4]], [2, 4, 6, 8])


async def test_a_fault_is_told_to_all_who_asked_and_to_nobody_else() -> None:
    oracle = Oracle()
    together = BatchLoader(oracle.ask)

    async def refused(number: int) -> None:
        with pytest.raises(Unavailable, match="not that one"):
            await together.load(number)

    async with asyncio.TaskGroup() as group:
        for number in (12, 13, 14):
            group.create_task(refused(number))
    assert await together.load(12) == 24
    assert oracle.asked == [[12, 13, 14], [12]]


@pytest.mark.parametrize("later", range(4))
@pytest.mark.parametrize("leaver", range(3))
async def test_who_leaves_at_any_moment_leaves_the_others_their_answers(leaver: int, later: int) -> None:
    oracle = Oracle()
    oracle.free.clear()
    together = BatchLoader(oracle.ask)
    async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as group:
        tasks = [group.create_task(together.load(number)) for number in range(3)]
        await turns(later)
        tasks[leaver].cancel()
        await asyncio.sleep(0)
        oracle.free.set()
    assert tasks[leaver].cancelled()
    assert len(oracle.asked) <= 2
    for number in {0, 1, 2} - {leaver}:
        assert tasks[number].result() == 2 * number
    assert together._next is None
