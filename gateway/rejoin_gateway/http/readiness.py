"""Whether this gateway can serve a chat. Load balancers ask often, and many of them at once.

Runs the checks side by side, each with a timeout, and reuses their results for a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

from rejoin_protocol.errors import RejoinError

log = structlog.get_logger("rejoin.readiness")

type Check = Callable[[], Awaitable[None]]
"""Raises an error whose text says what is missing."""

OK = "ok"
RESULTS_TTL_S = 1.0
READINESS_TIMEOUT_S = 3.0


class Readiness:
    """The checks of one gateway, and their last results."""

    def __init__(
        self,
        checks: Mapping[str, Check],
        clock_s: Callable[[], float] = time.monotonic,
        timeout_s: float = READINESS_TIMEOUT_S,
    ) -> None:
        self._checks = checks
        self._clock_s = clock_s
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._results: dict[str, str] = {}
        self._valid_until_s = float("-inf")

    async def check_all(self) -> dict[str, str]:
        """By check: `ok`, or a sentence that says what is wrong. Concurrent callers share one round."""
        async with self._lock:
            if self._clock_s() >= self._valid_until_s:
                async with asyncio.TaskGroup() as group:
                    tasks = {
                        name: group.create_task(_run_check(name, check, self._timeout_s))
                        for name, check in self._checks.items()
                    }
                self._results = {name: task.result() for name, task in tasks.items()}
                self._valid_until_s = self._clock_s() + RESULTS_TTL_S
            return dict(self._results)


async def _run_check(name: str, check: Check, timeout_s: float) -> str:
    try:
        async with asyncio.timeout(timeout_s):
            await check()
    except RejoinError as fault:
        return str(fault)
    except TimeoutError:
        return f"no answer within {timeout_s:g} s"
    except Exception:
        log.exception("readiness_check_failed", check=name)
        return "the check failed with an error: see the gateway's log"
    return OK
