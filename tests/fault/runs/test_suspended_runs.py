"""Runs that wait for an approval use no resources, whatever their number, and each continues."""

import asyncio
import gc
import os
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic

import pytest
import structlog

from rejoin_runner.worker.worker import Worker
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import RecordMeasurement, wait_until

pytestmark = pytest.mark.slow

RUNS = int(os.environ.get("REJOIN_SUSPENDED_RUNS", "150"))
AT_ONCE = 50
WARM_UP = AT_ONCE
KEPT_BYTES_MAX = 128 * 1024
"""Of all that our code and its drivers allocated meanwhile: less than half a KiB for each of 300 runs."""
OURS = [
    tracemalloc.Filter(inclusive=True, filename_pattern=f"*/{package}/*", all_frames=True)
    for package in ("gateway", "runner", "protocol", "nats", "asyncpg")
]


def kept_bytes() -> int:
    gc.collect()
    snapshot = tracemalloc.take_snapshot().filter_traces(OURS)
    return sum(trace.size for trace in snapshot.traces)


async def at_once[T](work: Callable[[str], Awaitable[T]], sessions: list[str]) -> list[T]:
    """The work for each session, a bounded number of them at a time."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(session: str) -> T:
        async with gate:
            return await work(session)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(session)) for session in sessions]
    return [task.result() for task in tasks]


@pytest.fixture
def watched() -> Iterator[None]:
    """Watch the memory, without the log lines, which pytest keeps in it."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    tracemalloc.start()
    yield
    tracemalloc.stop()
    structlog.configure(**before)


@pytest.mark.feature("F62")
@pytest.mark.timeout(120 + RUNS * 0.3)
@pytest.mark.usefixtures("watched")
async def test_suspended_runs_hold_nothing_and_each_resumes(
    system: LocalSystem, record_measurement: RecordMeasurement
) -> None:
    """No task, no connection, no subscription, no memory that grows with them."""
    worker = await system.runner()
    base = await system.gateway()

    async def ask(session: str) -> Answer:
        return await system.post(base, system.chat(session, "delete notes.txt"))

    async def approve(session: str) -> Answer:
        return await system.post(base, await system.decision(base, session, approved=True))

    await at_once(ask, [system.fresh("w") for _ in range(WARM_UP)])
    await idle(system, worker)
    tasks, before_bytes = len(asyncio.all_tasks()), kept_bytes()
    sessions, began = [system.fresh("s") for _ in range(RUNS)], monotonic()
    assert all(answer.complete for answer in await at_once(ask, sessions))
    await idle(system, worker)
    asked_s, kept = monotonic() - began, kept_bytes() - before_bytes
    assert len(asyncio.all_tasks()) <= tasks + AT_ONCE  # the client's idle connections
    assert kept < KEPT_BYTES_MAX
    tracemalloc.stop()  # it makes everything slow
    began = monotonic()
    assert {answer.text for answer in await at_once(approve, sessions)} == {"notes.txt is deleted."}
    resumed_s = monotonic() - began
    record_measurement(
        f"{RUNS} suspended runs keep {kept / 1024:.1f} KiB;"
        f" asked in {asked_s:.1f} s, resumed in {resumed_s:.1f} s"
    )


async def idle(system: LocalSystem, worker: Worker) -> None:
    """Until the runner executes nothing and the gateway follows nothing."""
    await wait_until(lambda: worker.active_runs == 0 and not system.feeds(0), "the end of all executions")
