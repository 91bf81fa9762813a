"""`ApiKeys` in PostgreSQL."""

from collections.abc import Sequence

import msgspec

from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.store_types import ApiKeyRow
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import TenantId


class PostgresApiKeys:
    """The adapter of `ApiKeys`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, row: ApiKeyRow) -> None:
        """See `ApiKeys`."""
        query = """
            with tenant as (insert into tenants (id) values ($2) on conflict do nothing),
            made as (
              insert into api_keys (
                id, tenant_id, hash, scopes, agent, user_id, name, created_at, expires_at, revoked_at,
                last_used_at)
              values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
              on conflict do nothing
              returning id)
            select to_json(
              exists (select from made) or exists (select from api_keys where id = $1 and hash = $3))
        """
        if await self._database.fetch_text_as_actor(query, *msgspec.structs.astuple(row)) != "true":
            raise Conflict(f"an API key {row.id!r} exists already")

    async def find(self, id: str) -> ApiKeyRow | None:
        """See `ApiKeys`."""
        query = "select key_json(k) from api_keys k where id = $1"
        return await self._database.find_json(ApiKeyRow, query, id)

    async def list(self, tenant: TenantId) -> Sequence[ApiKeyRow]:
        """See `ApiKeys`."""
        query = """
            select coalesce(json_agg(key_json(k) order by created_at desc, id desc), '[]') from api_keys k
            where tenant_id = $1
        """
        return await self._database.fetch_json(list[ApiKeyRow], query, tenant)

    async def revoke(self, tenant: TenantId, id: str) -> bool:
        """See `ApiKeys`."""
        query = """
            with revoked as (
              update api_keys set revoked_at = coalesce(revoked_at, clock_timestamp())
              where tenant_id = $1 and id = $2
              returning id)
            select to_json(exists (select from revoked))
        """
        return await self._database.fetch_text_as_actor(query, tenant, id) == "true"

    async def record_use(self, ids: Sequence[str]) -> None:
        """See `ApiKeys`."""
        query = """
            update api_keys set last_used_at = clock_timestamp()
            where id in (select id from api_keys where id = any ($1) order by id for no key update)
        """
        await self._database.fetch_text(query, list(ids))
