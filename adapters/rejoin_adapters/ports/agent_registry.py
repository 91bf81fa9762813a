"""The registry of agents that the runners serve."""

from collections.abc import Sequence
from typing import Protocol

from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry


class AgentRegistry(Protocol):
    """Entries expire unless runners announce them again."""

    async def announce(self, entry: AgentEntry) -> None:
        """Store or refresh an agent's entry. The entry of a newer deploy wins, see `AgentEntry.yields_to`."""
        ...

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """The entry of an agent, or None if no runner has announced it within the retention."""
        ...

    async def list(self) -> Sequence[AgentEntry]:
        """All entries, in no particular order."""
        ...
