"""`RunControl` in memory. All gateways and runners of a test share one object."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rejoin_adapters.ports.run_control import ControlMessage, Interrupt, Supersede
from rejoin_protocol.ids import RunId


class MemoryRunControl:
    """`RunControl` in memory."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[RunId, ControlMessage], None]] = []

    async def interrupt(self, run: RunId) -> None:
        """See `RunControl`."""
        self._send(run, Interrupt())

    async def supersede(self, run: RunId, attempt: int) -> None:
        """See `RunControl`."""
        self._send(run, Supersede(attempt))

    def _send(self, run: RunId, message: ControlMessage) -> None:
        for on_message in tuple(self._listeners):
            on_message(run, message)

    @asynccontextmanager
    async def listen(self, on_message: Callable[[RunId, ControlMessage], None]) -> AsyncIterator[None]:
        """See `RunControl`."""
        self._listeners.append(on_message)
        try:
            yield
        finally:
            self._listeners.remove(on_message)
