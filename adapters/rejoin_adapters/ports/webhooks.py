"""The outbox of webhooks: endpoints of tenants, and deliveries that are still to be sent.

A delivery is written with the change of its run, in one transaction. Events: `WEBHOOK_EVENTS`, `TEST_EVENT`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from rejoin_protocol.ids import TenantId

WEBHOOK_EVENTS = ("run.completed", "run.failed", "run.cancelled", "run.waiting")
TEST_EVENT = "webhook.test"
ENDPOINTS_MAX = 10
"""Of one tenant."""
WEBHOOK_WAITING_MAX = 100
"""Calls that `waitingFor` names."""
SETTLED_KEPT_S = 7 * 24 * 3600.0
"""How long delivered and failed deliveries are kept."""
FORGOTTEN_MAX = 1_000


class WebhookEndpoint(msgspec.Struct, frozen=True):
    """A receiver. `pending` and `failed`: its deliveries in these states. `last_error`: of the newest one
    that has an error.
    """

    id: str
    tenant: TenantId
    url: str
    events: Sequence[str]
    created_at: datetime
    disabled_at: datetime | None = None
    pending: int = 0
    failed: int = 0
    last_error: str | None = None


class DueWebhook(msgspec.Struct, frozen=True):
    """A delivery that a sender has taken. `payload`: the body. `secret`, `old_secret`: sealed; both sign."""

    number: int
    endpoint: str
    tenant: TenantId
    url: str
    attempt: int
    payload: msgspec.Raw
    secret: bytes
    old_secret: bytes | None = None


class WebhookResult(msgspec.Struct, frozen=True):
    """What became of an attempt. `error`: None if the receiver has it. `retry_s`: when to try again; what
    would be older than a day then has failed. `is_gone`: the receiver wants nothing more.
    """

    error: str | None = None
    retry_s: float = 0.0
    is_gone: bool = False


class WebhookOutbox(Protocol):
    """Each method is one transaction."""

    async def add(self, endpoint: WebhookEndpoint, secret: bytes) -> None:
        """Store an endpoint with its sealed secret. Raises `Limited` if the tenant has `ENDPOINTS_MAX`."""
        ...

    async def list(self, tenant: TenantId) -> Sequence[WebhookEndpoint]:
        """The tenant's endpoints, oldest first."""
        ...

    async def remove(self, tenant: TenantId, id: str) -> bool:
        """Delete an endpoint and its deliveries. False if the tenant has no such endpoint."""
        ...

    async def rotate(self, tenant: TenantId, id: str, secret: bytes, overlap_s: float) -> bool:
        """Replace the secret. The old one signs as well for `overlap_s`. False without such an endpoint."""
        ...

    async def test(self, tenant: TenantId, id: str) -> bool:
        """Queue a delivery of `TEST_EVENT`. False if there is no such endpoint."""
        ...

    async def replay(self, tenant: TenantId, id: str) -> int | None:
        """Queue the failed deliveries for another day, and switch the endpoint on. Returns how many; None
        without such an endpoint.
        """
        ...

    async def claim(self, count: int, *, each: int, tenant: int, lease_s: float) -> Sequence[DueWebhook]:
        """Take at most `count` deliveries that are due: of each session and endpoint the oldest, at most
        `each` at a time of an endpoint and `tenant` of a tenant. Nobody else takes them for `lease_s`.
        """
        ...

    async def settle(self, delivery: DueWebhook, result: WebhookResult) -> None:
        """Store what became of an attempt, unless its run was deleted or another sender has taken it."""
        ...

    async def forget(self, age_s: float = SETTLED_KEPT_S) -> int:
        """Delete deliveries that were settled so long ago, at most `FORGOTTEN_MAX`; returns how many."""
        ...
