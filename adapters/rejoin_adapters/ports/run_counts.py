"""Sums over runs: the unfinished ones, so that operators see a queue that no runner serves, and what runs
have used.
"""

from collections.abc import Sequence
from datetime import date
from typing import Protocol

from rejoin_adapters.store_types import RunCount
from rejoin_adapters.usage_types import UsageFilter, UsageRow

USAGE_ROWS_MAX = 10_000
USAGE_BATCH_MAX = 1_000


class RunCounts(Protocol):
    """Each method is one query."""

    async def count_busy(self) -> Sequence[RunCount]:
        """The ready runs of each agent, queued and running. Agents without any are left out."""
        ...

    async def sum_usage(self, wanted: UsageFilter) -> Sequence[UsageRow]:
        """What runs have used as of their last suspension or their end, by day, tenant, agent or model: the
        newest day first, of a day the most tokens first. Deleted sessions count. At most `USAGE_ROWS_MAX`
        rows.
        """
        ...

    async def delete_usage(self, before: date) -> int:
        """Delete what was used on earlier days, at most `USAGE_BATCH_MAX` rows; returns how many."""
        ...
