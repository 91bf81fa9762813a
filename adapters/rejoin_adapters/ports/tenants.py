"""Tenants: the limits of each. The database and the gateways enforce them, see `records.Limits`."""

from typing import Protocol

from rejoin_adapters.store_types import Limits
from rejoin_protocol.ids import TenantId


class Tenants(Protocol):
    """Each method is one transaction."""

    async def get_limits(self, tenant: TenantId) -> Limits:
        """A tenant's own limits; without any field if it has none or is unknown."""
        ...

    async def set_limits(self, tenant: TenantId, limits: Limits) -> None:
        """Replace a tenant's limits; creates the tenant if it is unknown. Waiting runs that the new limits
        allow are promoted by the next sweep.
        """
        ...
