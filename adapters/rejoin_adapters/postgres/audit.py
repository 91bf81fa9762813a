"""`AuditLog` in PostgreSQL. `migrations/0017_audit.sql` writes the entries."""

from collections.abc import Sequence

from rejoin_adapters.ports.audit import AUDIT_BATCH_MAX
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.store_types import AuditEntry
from rejoin_protocol.ids import TenantId


class PostgresAuditLog:
    """The adapter of `AuditLog`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(self, tenant: TenantId, *, limit: int, before: int | None = None) -> Sequence[AuditEntry]:
        """See `AuditLog`."""
        query = """
            select coalesce(json_agg(audit_json(a) order by number desc), '[]') from (
              select * from audit_log where tenant_id = $1 and ($2::bigint is null or number < $2)
              order by number desc limit $3) a
        """
        return await self._database.fetch_json(list[AuditEntry], query, tenant, before, limit)

    async def forget(self, age_s: float) -> int:
        """See `AuditLog`."""
        query = "select to_json(forget_audit($1, $2))"
        return await self._database.fetch_json(int, query, age_s, AUDIT_BATCH_MAX)
