"""Plain functions beside the event loop, each call in a thread of its own.

Nobody can end a thread. So whoever is cancelled leaves it behind, nobody waits for its place, and the process
ends without it. A pool would fill with threads that hang, and all that uses it would wait behind them.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context

THREADS_MAX = 1_000
_MARK = "plain "


class ThreadsExhausted(Exception):
    """`THREADS_MAX` calls are under way, perhaps for ever."""


async def call_in_thread[T](name: str, function: Callable[[], T]) -> T:
    """Call it, and return or raise what it does. Raises `ThreadsExhausted`."""
    if len(calls_in_progress()) >= THREADS_MAX:
        raise ThreadsExhausted
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on it can be left, and not be called off

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as fault:  # noqa: BLE001 - it is the caller's
            outcome.set_exception(fault)

    threading.Thread(target=copy_context().run, args=(work,), name=_MARK + name, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def calls_in_progress() -> list[str]:
    """The names of the calls that have not returned, those that were left behind among them."""
    names = [thread.name for thread in threading.enumerate()]
    return [name.removeprefix(_MARK) for name in names if name.startswith(_MARK)]
