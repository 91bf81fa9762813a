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
        self._database = database
        self._rows = database.api_keys

    async def create(self, row: ApiKeyRow) -> None:
        """See `ApiKeys`."""
        if row.id not in self._rows:
            self._rows[row.id] = row
            record_key(self._database, "key.created", row)
        elif self._rows[row.id].hash != row.hash:
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
        if row.revoked_at is None:
            self._rows[id] = msgspec.structs.replace(row, revoked_at=now_utc())
            record_key(self._database, "key.revoked", row)
        return True

    async def record_use(self, ids: Sequence[str]) -> None:
        """See `ApiKeys`."""
        for id in ids:
            if id in self._rows:
                self._rows[id] = msgspec.structs.replace(self._rows[id], last_used_at=now_utc())


def record_key(database: MemoryDatabase, action: str, row: ApiKeyRow) -> None:
    """Write what happened to a key to the audit log."""
    detail = {"scopes": list(row.scopes), "agent": row.agent, "user": row.user, "name": row.name}
    database.record_audit(row.tenant, action, row.id, **detail)
