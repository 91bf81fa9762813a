"""Work that ignores its end is abandoned after a grace, and writes nothing more."""

import asyncio

import pytest

from rejoin_adapters.process.background import DetachedTasks
from rejoin_runner.output.bounded_work import WorkAbandoned, refuse_if_abandoned, run_bounded, run_in_time


class Stubborn:
    """Work that swallows its cancellation until it is released."""

    def __init__(self) -> None:
        self.released = asyncio.Event()
        self.refused = False

    async def __call__(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue
        try:
            refuse_if_abandoned()
        except WorkAbandoned:
            self.refused = True


async def test_work_that_ignores_its_timeout_is_abandoned() -> None:
    work = Stubborn()
    async with DetachedTasks() as tasks:
        with pytest.raises(TimeoutError):
            await run_in_time(work(), tasks, 0.0, grace_s=0.01)
        work.released.set()
    assert work.refused


async def test_work_within_work_that_was_abandoned_writes_nothing_either() -> None:
    inner, interrupted = Stubborn(), asyncio.get_running_loop().create_future()
    interrupted.set_result(None)
    async with DetachedTasks() as tasks:
        outer = run_in_time(inner(), tasks, 60.0)
        await run_bounded(outer, tasks, interrupted, None, grace_s=0.01)
        inner.released.set()
    assert inner.refused


async def test_work_in_time_returns_or_raises_as_if_it_were_awaited() -> None:
    async def work(result: int) -> int:
        if result < 0:
            raise ValueError("no")
        return result

    async with DetachedTasks() as tasks:
        assert await run_in_time(work(3), tasks, None) == 3
        assert await run_in_time(work(4), tasks, 60.0) == 4
        with pytest.raises(ValueError, match="no"):
            await run_in_time(work(-1), tasks, 60.0)
