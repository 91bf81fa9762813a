"""`AgentRegistry` in memory. All gateways and runners of a test share one object."""

from collections.abc import Sequence

from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry


class MemoryAgentRegistry:
    """`AgentRegistry` in memory."""

    def __init__(self) -> None:
        self._entries: dict[AgentName, AgentEntry] = {}

    async def announce(self, entry: AgentEntry) -> None:
        """See `AgentRegistry`."""
        known = self._entries.get(entry.name)
        if known is None or not entry.yields_to(known):
            self._entries[entry.name] = entry

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """See `AgentRegistry`."""
        return self._entries.get(agent)

    async def list(self) -> Sequence[AgentEntry]:
        """See `AgentRegistry`."""
        return list(self._entries.values())
