"""Whether the broker stores messages, checked all the time.

A gateway takes no message that could not be answered: the client would wait for what no runner can write.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from rejoin_protocol.errors import Unavailable

log = structlog.get_logger("rejoin.broker")

PERIOD_S = 2.0
BROKER_RETRY_AFTER_S = 5


class BrokerWatch:
    """The result of the last probe. `probe` returns the shards that store messages, and raises
    `Unavailable` if the broker stores none. `shards`: where new runs go.
    """

    def __init__(self, probe: Callable[[], Awaitable[Sequence[int]]], shards: Sequence[int] = (0,)) -> None:
        self._probe = probe
        self._problem: str | None = None
        self.shards = shards

    async def check(self) -> None:
        """Probe now. Raises `Unavailable`."""
        problem = None
        try:
            usable = await self._probe()
            if usable != self.shards:
                log.warning("broker_shards_changed", usable=usable)
            self.shards = usable
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


async def _skip() -> Sequence[int]:
    return (0,)


def unwatched() -> BrokerWatch:
    """A broker that always stores messages, as the one in memory."""
    return BrokerWatch(_skip)
