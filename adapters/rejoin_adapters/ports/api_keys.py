"""API keys: what a key may do, and until when. Stores hashes, never secrets; checks nothing."""

from collections.abc import Sequence
from typing import Protocol

from rejoin_adapters.store_types import ApiKeyRow
from rejoin_protocol.ids import TenantId


class ApiKeys(Protocol):
    """Each method is one transaction."""

    async def create(self, row: ApiKeyRow) -> None:
        """Store a new key, and its tenant if it is new. Raises `Conflict` if another key has the id."""
        ...

    async def find(self, id: str) -> ApiKeyRow | None:
        """The key with this id in any tenant, revoked and expired keys included, or None."""
        ...

    async def list(self, tenant: TenantId) -> Sequence[ApiKeyRow]:
        """A tenant's keys, newest first."""
        ...

    async def revoke(self, tenant: TenantId, id: str) -> bool:
        """Revoke a key. False if the tenant has no such key."""
        ...

    async def record_use(self, ids: Sequence[str]) -> None:
        """Set the time of last use of these keys to now."""
        ...
