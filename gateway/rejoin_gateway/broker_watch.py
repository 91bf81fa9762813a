"""Whether the broker stores messages, checked all the time.

A gateway takes no message that could not be answered: the client would wait for what no runner can write.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from rejoin_protocol.errors import Unavailable

log = structlog.get_logger("rejoin.broker")

PERIOD_S = 2.0
BROKER_RETRY_AFTER_S = 5


class BrokerWatch:
    """The result of the last probe. `probe` raises `Unavailable` if the broker does not store messages."""

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self._probe = probe
        self._problem: str | None = None

    async def check(self) -> None:
        """Probe now. Raises `Unavailable`."""
        problem = None
        try:
            await self._probe()
        except Unavailable as fault:
            problem = str(fault)
        if problem != self._problem:
            level = log.warning if problem else log.info
            level("broker_write_check", problem=problem)
        self._problem = problem
        self.require_writable()

    def require_writable(self) -> None:
        """Raises `Unavailable` if the last probe has failed."""
        if self._problem is not None:
            raise Unavailable(self._problem, BROKER_RETRY_AFTER_S)

    async def watch(self) -> None:
        """Probe until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            try:
                await self.check()
            except Unavailable:
                continue  # `require_writable` reports it


async def _skip() -> None:
    pass


def unwatched() -> BrokerWatch:
    """A broker that always stores messages, as the one in memory."""
    return BrokerWatch(_skip)
