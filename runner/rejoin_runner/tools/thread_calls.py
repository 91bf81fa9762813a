"""Calls of plain functions in threads, one thread for each call.

A thread cannot be stopped. If a call is cancelled its thread is abandoned: it goes on, nothing waits for it,
and as a daemon thread it does not delay the exit of the process. A pool is no choice: threads that hang would
fill it and block every other call.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context

from rejoin_runner.application_code import RunningCode, application_code

THREADS_MAX = 1_000
_NAME_PREFIX = "plain "


class ThreadsExhausted(Exception):
    """`THREADS_MAX` calls are in progress; abandoned ones count until they return."""


async def call_in_thread[T](name: str, function: Callable[[], T]) -> T:
    """Call a function in a new thread and return or raise what it returns or raises; `ApplicationGaveUp` if
    that is no `Exception`.

    The context variables of the caller are visible in it. Raises `ThreadsExhausted`.
    """
    if len(calls_in_progress()) >= THREADS_MAX:
        raise ThreadsExhausted
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # a running future is not cancelled when its waiter is

    def work() -> None:
        try:
            with application_code(RunningCode(f"the tool {name}")):
                outcome.set_result(function())
        except Exception as fault:  # noqa: BLE001 - the caller gets it
            outcome.set_exception(fault)

    thread_name = _NAME_PREFIX + name
    threading.Thread(target=copy_context().run, args=(work,), name=thread_name, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def calls_in_progress() -> list[str]:
    """The names of the calls that have not returned, abandoned ones included."""
    names = [thread.name for thread in threading.enumerate()]
    return [name.removeprefix(_NAME_PREFIX) for name in names if name.startswith(_NAME_PREFIX)]
