"""API keys as rows: what a key may do and until when. Never holds a secret, only its hash; checks nothing.

Concrete: it is PostgreSQL.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import AgentName, TenantId, UserId

from rejoin_adapters.postgres.pool import Database


class ApiKeyRow(msgspec.Struct, frozen=True):
    """A key. `agent`: it is for that agent alone. `user`: it acts for that user alone."""

    id: str
    tenant: TenantId
    hash: bytes
    scopes: Sequence[str]
    agent: AgentName | None
    user: UserId | None
    name: str | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None


class PostgresApiKeys:
    """See the module. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, row: ApiKeyRow) -> None:
        """Store a new key, and its tenant if that is new. Raises `Conflict` if the id is another key's."""
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
        if not await self._database.get(bool, query, *msgspec.structs.astuple(row)):
            raise Conflict(f"there is a key {row.id!r} already")

    async def find(self, id: str) -> ApiKeyRow | None:
        """A key, whosever it is, revoked and expired ones too."""
        query = "select key_json(k) from api_keys k where id = $1"
        return await self._database.find(ApiKeyRow, query, id)

    async def list(self, tenant: TenantId) -> Sequence[ApiKeyRow]:
        """A tenant's keys, newest first."""
        query = """
            select coalesce(json_agg(key_json(k) order by created_at desc, id desc), '[]') from api_keys k
            where tenant_id = $1
        """
        return await self._database.get(list[ApiKeyRow], query, tenant)

    async def revoke(self, tenant: TenantId, id: str) -> bool:
        """From now on it is no key any more. False if the tenant has no such key."""
        query = """
            with revoked as (
              update api_keys set revoked_at = coalesce(revoked_at, clock_timestamp())
              where tenant_id = $1 and id = $2
              returning id)
            select to_json(exists (select from revoked))
        """
        return await self._database.get(bool, query, tenant, id)

    async def used(self, ids: Sequence[str]) -> None:
        """They were used just now."""
        query = """
            update api_keys set last_used_at = clock_timestamp()
            where id in (select id from api_keys where id = any ($1) order by id for no key update)
        """
        await self._database.value(query, list(ids))
