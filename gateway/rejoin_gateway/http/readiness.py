"""Whether this gateway can serve a chat, as load balancers ask it: often, and many at once.

Owns no check of its own: it runs those that it is given, side by side and in bounded time, and believes what
they said for a second.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog
from rejoin_protocol.errors import RejoinError

log = structlog.get_logger("rejoin.readiness")

type Check = Callable[[], Awaitable[None]]

OK = "ok"
RESULTS_TTL_S = 1.0
CHECK_TIMEOUT_S = 3.0


class Readiness:
    """What the checks say, and have said within the last second."""

    def __init__(self, checks: Mapping[str, Check], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._checks = checks
        self._clock_s = clock_s
        self._asking = asyncio.Lock()
        self._found: dict[str, str] = {}
        self._until_s = float("-inf")

    async def found(self) -> dict[str, str]:
        """By check: `ok`, or a sentence. Whoever asks meanwhile gets the same answer."""
        async with self._asking:
            if self._clock_s() >= self._until_s:
                async with asyncio.TaskGroup() as group:
                    tasks = {
                        name: group.create_task(_result(name, check)) for name, check in self._checks.items()
                    }
                self._found = {name: task.result() for name, task in tasks.items()}
                self._until_s = self._clock_s() + RESULTS_TTL_S
            return dict(self._found)


async def _result(name: str, check: Check) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check()
    except RejoinError as fault:
        return str(fault)
    except TimeoutError:
        return f"no answer within {CHECK_TIMEOUT_S:g} s"
    except Exception:
        log.exception("readiness_check_failed", check=name)
        return "the check is broken"
    return OK
