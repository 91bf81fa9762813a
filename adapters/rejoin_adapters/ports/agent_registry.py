"""The registry of agents that the runners serve, and how the processes are, for the console."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from rejoin_protocol.ids import AgentName
from rejoin_protocol.process_report import ProcessReport
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


class ProcessReports(Protocol):
    """Broadcasts reports to all gateways. Reports are not stored, and one that is lost is no fault."""

    async def publish(self, report: ProcessReport) -> None:
        """Tell all gateways. Raises `Unavailable`."""
        ...

    def listen(self, on_report: Callable[[ProcessReport], None]) -> AbstractAsyncContextManager[None]:
        """Call `on_report` for every report, from the moment the context is entered. Reports of this process
        are included.
        """
        ...
