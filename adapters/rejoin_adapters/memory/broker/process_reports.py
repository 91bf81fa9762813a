"""`ProcessReports` in memory. All gateways and runners of a test share one object."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from rejoin_protocol.process_report import ProcessReport


class MemoryProcessReports:
    """`ProcessReports` in memory."""

    def __init__(self) -> None:
        self._ears: list[Callable[[ProcessReport], None]] = []

    async def publish(self, report: ProcessReport) -> None:
        """See `ProcessReports`."""
        for on_report in tuple(self._ears):
            on_report(report)

    @asynccontextmanager
    async def listen(self, on_report: Callable[[ProcessReport], None]) -> AsyncIterator[None]:
        """See `ProcessReports`."""
        self._ears.append(on_report)
        try:
            yield
        finally:
            self._ears.remove(on_report)
