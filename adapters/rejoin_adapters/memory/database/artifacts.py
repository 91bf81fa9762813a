"""`Artifacts` in memory, over the rows of a `MemoryDatabase`."""

import msgspec

from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.session_keys import name_of
from rejoin_adapters.store_types import Artifact, Owner
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import TenantId


class MemoryArtifacts:
    """`Artifacts` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def put(self, tenant: TenantId, artifact: Artifact) -> None:
        """See `Artifacts`."""
        session = self._database.sessions.get((tenant, artifact.session))
        runs = {run.row.id for run in session.runs} if session is not None else set()
        if session is None or (artifact.run is not None and artifact.run not in runs):
            raise Fenced("the session or the run was deleted")
        self._database.artifacts.setdefault((tenant, artifact.id), artifact)

    async def get(self, owner: Owner, id: str) -> Artifact | None:
        """See `Artifacts`."""
        artifact = self._database.artifacts.get((owner.tenant, id))
        if artifact is None or self._database.find_session(owner, artifact.session) is None:
            return None
        return msgspec.structs.replace(artifact, session=name_of(owner, artifact.session))
