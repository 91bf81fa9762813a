"""`ApiKeys` in memory, over the rows of a `MemoryDatabase`."""

from collections.abc import Sequence

import msgspec

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.store_types import ApiKeyRow
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import TenantId


class MemoryApiKeys:
    """`ApiKeys` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._rows = database.api_keys

    async def create(self, row: ApiKeyRow) -> None:
        """See `ApiKeys`."""
        if self._rows.setdefault(row.id, row).hash != row.hash:
            raise Conflict(f"an API key {row.id!r} exists already")

    async def find(self, id: str) -> ApiKeyRow | None:
        """See `ApiKeys`."""
        return self._rows.get(id)

    async def list(self, tenant: TenantId) -> Sequence[ApiKeyRow]:
        """See `ApiKeys`."""
        rows = [row for row in self._rows.values() if row.tenant == tenant]
        return sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)

    async def revoke(self, tenant: TenantId, id: str) -> bool:
        """See `ApiKeys`."""
        row = self._rows.get(id)
        if row is None or row.tenant != tenant:
            return False
        self._rows[id] = msgspec.structs.replace(row, revoked_at=row.revoked_at or now_utc())
        return True

    async def record_use(self, ids: Sequence[str]) -> None:
        """See `ApiKeys`."""
        for id in ids:
            if id in self._rows:
                self._rows[id] = msgspec.structs.replace(self._rows[id], last_used_at=now_utc())
