"""What waits for its next use leaves the pool after its time, and not before."""

import asyncio

from rejoin_adapters.process.idle_pool import IdlePool
from tests.support.system.simulated_loop import SimulatedLoop

IDLE_S = 10.0


def test_a_thing_that_was_used_again_has_all_of_its_idle_time() -> None:
    """The end of an earlier idle time does not end it."""
    ended: list[tuple[str, float]] = []

    async def use() -> None:
        loop = asyncio.get_running_loop()
        pool = IdlePool[str](IDLE_S, lambda thing: ended.append((thing, loop.time())))
        pool.keep("process")
        await asyncio.sleep(IDLE_S - 1)
        assert pool.take() == "process"
        assert pool.take() is None
        await asyncio.sleep(0.5)
        pool.keep("process")
        await asyncio.sleep(IDLE_S * 2)
        assert len(pool) == 0

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(use())
    assert ended == [("process", 2 * IDLE_S - 0.5)]


def test_the_thing_that_was_kept_last_is_taken_first() -> None:
    """So that those that are not needed reach the end of their time."""

    async def use() -> None:
        pool = IdlePool[str](IDLE_S, lambda _: None)
        pool.keep("first")
        pool.keep("last")
        assert [pool.take(), pool.take(), pool.take()] == ["last", "first", None]

    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        runner.run(use())
