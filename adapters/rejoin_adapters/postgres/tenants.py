"""`Tenants` in PostgreSQL."""

from rejoin_adapters.postgres.pool import Database, json_text
from rejoin_adapters.store_types import Limits
from rejoin_protocol.ids import TenantId


class PostgresTenants:
    """The adapter of `Tenants`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get_limits(self, tenant: TenantId) -> Limits:
        """See `Tenants`."""
        query = "select limits from tenants where id = $1"
        return await self._database.find_json(Limits, query, tenant) or Limits()

    async def set_limits(self, tenant: TenantId, limits: Limits) -> None:
        """See `Tenants`."""
        query = """
            insert into tenants (id, limits) values ($1, $2)
            on conflict (id) do update set limits = excluded.limits
        """
        await self._database.fetch_text_as_actor(query, tenant, json_text(limits))
