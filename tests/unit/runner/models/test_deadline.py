"""`Deadline`: one time limit for several waits ends the wait in which it expires, and nothing else."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import closing

import pytest

from rejoin_runner.models.deadline import Deadline, Silence, iterate_within

LONG_S = 60.0
SHORT_S = 0.01


async def numbers(pause_s: float = 0) -> AsyncGenerator[int]:
    for number in range(3):
        await asyncio.sleep(pause_s)
        yield number


async def test_what_comes_in_time_comes() -> None:
    with closing(Deadline(LONG_S)) as limit:
        assert [number async for number in iterate_within(numbers(), limit)] == [0, 1, 2]


async def test_the_wait_in_which_it_is_reached_ends() -> None:
    with closing(Deadline(SHORT_S)) as limit:
        with pytest.raises(TimeoutError):
            _ = [number async for number in iterate_within(numbers(LONG_S), limit)]
        await asyncio.sleep(0)  # the task continues as if it had not been cancelled
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_who_is_between_two_waits_goes_on_until_the_next() -> None:
    with closing(Deadline(LONG_S)) as limit:
        items = iterate_within(numbers(), limit)
        assert await anext(items) == 0
        limit._expire(TimeoutError)
        with pytest.raises(TimeoutError):
            await anext(items)


async def test_a_silence_ends_the_wait_that_is_silent_not_those_before() -> None:
    """Each wait has its own time, however many there are."""
    silence_s, clock = 1.0, asyncio.get_running_loop().time
    with closing(Deadline(LONG_S, silence_s)) as limit:
        began_s = clock()
        while clock() < began_s + 1.2 * silence_s:
            with limit:
                await asyncio.sleep(SHORT_S)
        with pytest.raises(Silence), limit:
            await asyncio.sleep(LONG_S)


async def test_who_is_between_two_waits_is_not_silent() -> None:
    with closing(Deadline(LONG_S, SHORT_S)) as limit:
        await asyncio.sleep(5 * SHORT_S)
        with limit:
            await asyncio.sleep(0)


async def test_the_time_for_all_ends_a_wait_that_is_not_silent_yet() -> None:
    with closing(Deadline(SHORT_S, LONG_S)) as limit, pytest.raises(TimeoutError) as raised, limit:
        await asyncio.sleep(LONG_S)
    assert raised.type is TimeoutError


async def test_a_failure_stays_what_it_is() -> None:
    async def broken() -> AsyncGenerator[int]:
        yield 0
        raise ValueError("broken")

    with closing(Deadline(LONG_S)) as limit, pytest.raises(ValueError, match="broken"):
        _ = [number async for number in iterate_within(broken(), limit)]


async def test_who_is_cancelled_by_others_is_cancelled() -> None:
    """Also in the moment in which the bound is reached."""
    waiting = asyncio.Event()

    async def wait(limit: Deadline) -> None:
        with limit:
            waiting.set()
            await asyncio.sleep(LONG_S)

    with closing(Deadline(LONG_S)) as limit:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(wait(limit))
            await waiting.wait()
            limit._expire(TimeoutError)
            task.cancel()
        assert task.cancelled()


async def test_a_closed_one_rings_no_more() -> None:
    limit = Deadline(LONG_S)
    limit.close()
    assert limit._timer.cancelled()
