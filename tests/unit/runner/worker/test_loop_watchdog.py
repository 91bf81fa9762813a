"""A blocked event loop is reported while it is blocked, with the code that blocks it."""

import asyncio
import threading
import time
from collections.abc import MutableMapping, Sequence
from typing import Any

from structlog.testing import capture_logs

from rejoin_adapters.process.background import run_alongside
from rejoin_runner.run import tool_calls
from rejoin_runner.worker import loop_watchdog
from tests.support.system.observation import wait_until

BLOCKED_S = 0.2
DEADLINE_S = 10.0

type Lines = Sequence[MutableMapping[str, Any]]


def reports(lines: Lines) -> Lines:
    """The lines about the blocking task."""
    return [line for line in lines if line.get("task") == "tool nap"]


async def block(lines: Lines) -> None:
    """Block the loop until the watchdog reports it."""
    deadline = time.monotonic() + DEADLINE_S
    while not reports(lines) and time.monotonic() < deadline:
        time.sleep(BLOCKED_S / 4)  # noqa: ASYNC251 - blocking is the scenario


async def test_a_tool_that_blocks_the_loop_is_named_while_it_does() -> None:
    """The thread reports it; once the loop runs again, the loop reports how long it was blocked."""
    with capture_logs() as lines:
        async with run_alongside(loop_watchdog.watch(BLOCKED_S)):
            await asyncio.sleep(0)
            task = asyncio.get_running_loop().create_task(block(lines), name=tool_calls.TASK_PREFIX + "nap")
            await task
            await wait_until(lambda: lines[-1]["event"] == "event_loop_unblocked", "the end of the silence")
    [line] = reports(lines)
    assert (line["event"], line["log_level"]) == ("event_loop_blocked", "warning")
    assert line["where"][0].startswith(f"{__file__}:")
    assert line["where"][0].endswith(" block")
    assert lines[-1]["seconds"] >= BLOCKED_S


async def test_a_running_loop_is_not_reported_and_the_watchdog_thread_ends_with_it() -> None:
    with capture_logs() as lines:
        async with run_alongside(loop_watchdog.watch()):
            await asyncio.sleep(0)
            assert "loop-watchdog" in [thread.name for thread in threading.enumerate()]
    assert "loop-watchdog" not in [thread.name for thread in threading.enumerate()]
    assert lines == []
