"""The registry of agents as a gateway reads it: with a cache of the entries.

Every message needs its agent's entry. Without the cache the broker would be asked once for each message.
"""

import time
from collections.abc import Callable, Sequence

from cachetools import TTLCache

from rejoin_adapters.ports.agent_registry import AgentRegistry
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry

AGENT_CACHE_TTL_S = 5.0
"""Runners announce an entry every 30 s."""
AGENTS_MAX = 1_000
"""Entries that are kept at most; beyond that, the oldest ones are dropped."""


class CachedAgentRegistry:
    """`AgentRegistry` whose `find` keeps a found entry for `ttl_s` seconds. The absence of an entry is not
    kept, so a new agent is found at once.
    """

    def __init__(
        self, registry: AgentRegistry, ttl_s: float, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._entries: TTLCache[AgentName, AgentEntry] = TTLCache(AGENTS_MAX, ttl_s, timer=clock_s)

    async def announce(self, entry: AgentEntry) -> None:
        """See `AgentRegistry`."""
        await self._registry.announce(entry)

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """See `AgentRegistry`."""
        entry = self._entries.get(agent)
        if entry is None:
            entry = await self._registry.find(agent)
            if entry is not None:
                self._entries[agent] = entry
        return entry

    async def list(self) -> Sequence[AgentEntry]:
        """See `AgentRegistry`."""
        return await self._registry.list()
