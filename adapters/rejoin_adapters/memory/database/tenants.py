"""`Tenants` in memory, over the rows of a `MemoryDatabase`."""

from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.store_types import Limits
from rejoin_protocol.ids import TenantId


class MemoryTenants:
    """`Tenants` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._limits = database.limits

    async def get_limits(self, tenant: TenantId) -> Limits:
        """See `Tenants`."""
        return self._limits.get(tenant, Limits())

    async def set_limits(self, tenant: TenantId, limits: Limits) -> None:
        """See `Tenants`."""
        self._limits[tenant] = limits
