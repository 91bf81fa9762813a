"""Plain functions run in threads; a hanging one is abandoned."""

import asyncio
import threading
from contextvars import ContextVar

import pytest

from rejoin_runner.application_code import ApplicationGaveUp
from rejoin_runner.tools import thread_calls

WORD: ContextVar[str] = ContextVar("WORD")


async def test_it_runs_beside_the_loop_and_knows_its_callers_context() -> None:
    WORD.set("here")
    thread, word = await thread_calls.call_in_thread("x", lambda: (threading.current_thread(), WORD.get()))
    assert (thread is threading.main_thread(), thread.daemon, word) == (False, True, "here")


@pytest.mark.parametrize(
    ("fault", "raised"), [(ValueError("no"), ValueError), (SystemExit(3), ApplicationGaveUp)]
)
async def test_what_it_raises_is_raised(fault: BaseException, raised: type[Exception]) -> None:
    def fails() -> None:
        raise fault

    with pytest.raises(raised):
        await thread_calls.call_in_thread("x", fails)


async def test_who_is_cancelled_leaves_it_behind_and_can_say_what_it_is() -> None:
    gate = threading.Event()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await thread_calls.call_in_thread("hangs", gate.wait)
    assert thread_calls.calls_in_progress() == ["hangs"]
    [left] = [thread for thread in threading.enumerate() if thread.name.endswith("hangs")]
    gate.set()
    left.join(10)
    assert thread_calls.calls_in_progress() == []


async def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_calls, "THREADS_MAX", 0)
    with pytest.raises(thread_calls.ThreadsExhausted):
        await thread_calls.call_in_thread("x", lambda: 1)
