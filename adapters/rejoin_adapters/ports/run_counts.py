"""Counts of unfinished runs over all tenants, so that operators see a queue that no runner serves."""

from collections.abc import Sequence
from typing import Protocol

from rejoin_adapters.store_types import RunCount


class RunCounts(Protocol):
    """Count the runs with one query."""

    async def count_busy(self) -> Sequence[RunCount]:
        """The ready runs of each agent, queued and running. Agents without any are left out."""
        ...
