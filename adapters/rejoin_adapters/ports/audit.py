"""The audit log: who has changed keys, decided approvals, deleted sessions and set limits. The store of the
change writes the entry with it.
"""

from collections.abc import Sequence
from typing import Protocol

from rejoin_adapters.store_types import AuditEntry
from rejoin_protocol.ids import TenantId

AUDIT_BATCH_MAX = 10_000
"""Entries that one `forget` deletes."""


class AuditLog(Protocol):
    """Each method is one transaction."""

    async def list(self, tenant: TenantId, *, limit: int, before: int | None = None) -> Sequence[AuditEntry]:
        """A tenant's entries, newest first. `before`: only those with a smaller number."""
        ...

    async def forget(self, age_s: float) -> int:
        """Delete up to `AUDIT_BATCH_MAX` entries older than this, and than a week; returns how many."""
        ...
