"""A blocked event loop is reported while it is blocked, with the code that blocks it."""

import asyncio
import threading
import time
from collections.abc import MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from structlog.testing import capture_logs

from rejoin_runner.application_code import RunningCode, application_code
from rejoin_runner.worker.loop_watch import LoopWatch
from tests.support.system.observation import wait_until

BLOCKED_S = 0.05
DEADLINE_S = 10.0

type Lines = Sequence[MutableMapping[str, Any]]


def watched() -> LoopWatch:
    return LoopWatch(asyncio.get_running_loop(), threading.get_ident(), reported_s=BLOCKED_S)


async def block(watch: LoopWatch, lines: Lines) -> None:
    """Block the loop, while another thread looks at it, until the block is reported."""

    def look() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not lines and time.monotonic() < deadline:
            watch.look()
            time.sleep(BLOCKED_S / 5)

    with ThreadPoolExecutor(1) as threads:
        threads.submit(look).result()


async def test_a_tool_that_blocks_the_loop_is_named_while_it_does() -> None:
    """The other thread reports it; once the loop runs again, the loop reports how long it was blocked."""
    watch = watched()
    with capture_logs() as lines:
        async with asyncio.TaskGroup() as group:
            group.create_task(block(watch, lines), name="tool nap")
        await wait_until(lambda: lines[-1]["event"] == "event_loop_unblocked", "the end of the silence")
    [blocked, unblocked] = lines
    assert (blocked["event"], blocked["log_level"], blocked["task"]) == (
        "event_loop_blocked",
        "warning",
        "tool nap",
    )
    assert unblocked["seconds"] >= BLOCKED_S


async def test_a_running_loop_is_not_reported() -> None:
    watch = watched()
    with capture_logs() as lines:
        for _ in range(3):
            await asyncio.to_thread(watch.look)
            await asyncio.sleep(0)
    assert [line for line in lines if "event_loop" in line["event"]] == []  # others run in this process


async def test_code_that_belongs_to_no_run_is_nobodys() -> None:
    """A function of the runner blocks, or the application's code outside of a run."""
    watch = watched()

    def find() -> object:
        with ThreadPoolExecutor(1) as threads:
            return threads.submit(watch.find_blocker).result()

    assert find() is None
    with application_code(RunningCode("the tool nap")):
        assert find() is None


async def test_what_waits_for_the_loop_is_called_once() -> None:
    calls: list[None] = []

    def call() -> None:
        calls.append(None)

    watch = watched()
    watch.call_when_free(call)
    watch.call_when_free(call)
    await wait_until(lambda: calls, "the call")
    await asyncio.sleep(0)
    assert len(calls) == 1
