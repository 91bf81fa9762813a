"""Artifacts: results of tools, stored whole here, while the log and the messages carry a summary."""

from typing import Protocol

from rejoin_adapters.store_types import Artifact, Owner
from rejoin_protocol.ids import TenantId


class Artifacts(Protocol):
    """An artifact belongs to a session and is visible to the owners of the session."""

    async def put(self, tenant: TenantId, artifact: Artifact) -> None:
        """Store an artifact; an existing one with this id stays unchanged. Raises `Fenced` if its session or
        its run was deleted.
        """
        ...

    async def get(self, owner: Owner, id: str) -> Artifact | None:
        """One artifact, or None."""
        ...
