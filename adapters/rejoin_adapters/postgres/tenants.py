"""Tenants as rows: how much each may have and ask for. What the limits mean stands at `store.Limits`; the
database's functions and the gateways see to them. Concrete: it is PostgreSQL.
"""

from rejoin_protocol.ids import TenantId

from rejoin_adapters.postgres.pool import Database, json_text
from rejoin_adapters.records import Limits


class PostgresTenants:
    """See the module. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def limits(self, tenant: TenantId) -> Limits:
        """A tenant's own limits: none if it has none, or is not known yet."""
        query = "select limits from tenants where id = $1"
        return await self._database.find(Limits, query, tenant) or Limits()

    async def limit(self, tenant: TenantId, limits: Limits) -> None:
        """These are its limits from now on, and no others; a tenant that is not known yet is made. Runs that
        may start by them now do so with the next sweep.
        """
        query = """
            insert into tenants (id, limits) values ($1, $2)
            on conflict (id) do update set limits = excluded.limits
        """
        await self._database.value(query, tenant, json_text(limits))
