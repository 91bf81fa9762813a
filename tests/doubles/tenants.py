"""The double of `Tenants`, over the rows of a `MemoryDatabase`."""

from rejoin_adapters.records import Limits
from rejoin_protocol.ids import TenantId

from tests.doubles.database import MemoryDatabase


class MemoryTenants:
    """The double of `Tenants`."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._limits = database.limits

    async def get_limits(self, tenant: TenantId) -> Limits:
        """See `Tenants`."""
        return self._limits.get(tenant, Limits())

    async def set_limits(self, tenant: TenantId, limits: Limits) -> None:
        """See `Tenants`."""
        self._limits[tenant] = limits
