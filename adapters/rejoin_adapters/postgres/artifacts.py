"""`Artifacts` in PostgreSQL."""

import msgspec

from rejoin_adapters.postgres.pool import Database, json_or_null, json_text
from rejoin_adapters.session_keys import name_of
from rejoin_adapters.store_types import Artifact, Owner
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import TenantId


class PostgresArtifacts:
    """The adapter of `Artifacts`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, tenant: TenantId, artifact: Artifact) -> None:
        """See `Artifacts`."""
        query = """
            with home as (
              select id from sessions s
              where tenant_id = $1 and id = $3 and ($4::text is null or exists (
                select from runs r where r.id = $4 and r.tenant_id = $1 and r.session_id = $3))
              for key share of s),
            made as (
              insert into artifacts (tenant_id, id, session_id, run_id, type, name, summary, body, created_at)
              select $1, $2, id, $4, $5, $6, $7, $8, $9 from home
              on conflict do nothing)
            select to_json(exists (select from home))
        """
        stored = await self._database.fetch_json(
            bool,
            query,
            tenant,
            artifact.id,
            artifact.session,
            artifact.run,
            artifact.type,
            artifact.name,
            json_or_null(artifact.summary),
            json_text(artifact.data),
            artifact.created_at,
        )
        if not stored:
            raise Fenced("the session or the run was deleted")

    async def get(self, owner: Owner, id: str) -> Artifact | None:
        """See `Artifacts`."""
        query = """
            select artifact_json(a) from artifacts a
            join sessions s on s.tenant_id = a.tenant_id and s.id = a.session_id
            where a.tenant_id = $1 and ($2::text is null or s.user_id = $2) and a.id = $3
        """
        found = await self._database.find_json(Artifact, query, owner.tenant, owner.user, id)
        return found and msgspec.structs.replace(found, session=name_of(owner, found.session))
