"""`AuditLog` in memory, over the rows of a `MemoryDatabase`."""

from collections.abc import Sequence
from datetime import timedelta

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.ports.audit import AUDIT_BATCH_MAX
from rejoin_adapters.store_types import AuditEntry
from rejoin_protocol.ids import TenantId

KEPT_S_MIN = 7 * 86_400


class MemoryAuditLog:
    """`AuditLog` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def list(self, tenant: TenantId, *, limit: int, before: int | None = None) -> Sequence[AuditEntry]:
        """See `AuditLog`."""
        found = [
            entry
            for entry in reversed(self._database.audit)
            if entry.tenant == tenant and (before is None or entry.number < before)
        ]
        return found[:limit]

    async def forget(self, age_s: float) -> int:
        """See `AuditLog`."""
        since = now_utc() - timedelta(seconds=max(age_s, KEPT_S_MIN))
        old = {entry.number for entry in self._database.audit if entry.at < since}
        old = set(sorted(old)[:AUDIT_BATCH_MAX])
        self._database.audit = [entry for entry in self._database.audit if entry.number not in old]
        return len(old)
