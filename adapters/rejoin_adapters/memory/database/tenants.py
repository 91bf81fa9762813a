"""`Tenants` in memory, over the rows of a `MemoryDatabase`."""

import msgspec

from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.store_types import Limits
from rejoin_protocol.ids import TenantId


class MemoryTenants:
    """`Tenants` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database
        self._limits = database.limits

    async def get_limits(self, tenant: TenantId) -> Limits:
        """See `Tenants`."""
        return self._limits.get(tenant, Limits())

    async def set_limits(self, tenant: TenantId, limits: Limits) -> None:
        """See `Tenants`."""
        if self._limits.get(tenant, Limits()) != limits:
            self._database.record_audit(tenant, "limits.set", tenant, **msgspec.to_builtins(limits))
        self._limits[tenant] = limits
