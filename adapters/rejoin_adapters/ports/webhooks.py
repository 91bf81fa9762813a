"""The outbox of webhooks: endpoints of tenants, and deliveries that are still to be sent.

A delivery is written with the change of its run, in one transaction. Events: `WEBHOOK_EVENTS`, `TEST_EVENT`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal, Protocol, get_args

import msgspec

from rejoin_protocol.ids import TenantId

type WebhookEvent = Literal["run.completed", "run.failed", "run.cancelled", "run.waiting"]
WEBHOOK_EVENTS: tuple[WebhookEvent, ...] = get_args(WebhookEvent.__value__)
TEST_EVENT = "webhook.test"
ENDPOINTS_MAX = 10
"""Of one tenant."""
PENDING_MAX = 10_000
"""Deliveries that wait for one endpoint. Further ones have failed; a replay sends them."""
WEBHOOK_WAITING_MAX = 100
"""Calls that `waitingFor` names."""
SETTLED_KEPT_S = 7 * 24 * 3600.0
"""How long delivered and failed deliveries are kept."""
FORGOTTEN_MAX = 1_000


type WebhookState = Literal["pending", "delivered", "failed"]


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
    """A delivery that a sender has taken. `payload`: the body. `secret`, `old_secret`: sealed; both sign.
    `by_request`: a request has named the URL.
    """

    number: int
    endpoint: str
    tenant: TenantId
    url: str
    attempt: int
    payload: msgspec.Raw
    secret: bytes
    old_secret: bytes | None = None
    by_request: bool = False


class WebhookResult(msgspec.Struct, frozen=True):
    """What became of an attempt. `error`: None if the receiver has it. `retry_s`: when to try again; what
    would be older than a day then has failed. `is_gone`: the receiver wants nothing more.
    """

    error: str | None = None
    retry_s: float = 0.0
    is_gone: bool = False


class WaitingCall(msgspec.Struct, frozen=True, rename="camel"):
    """A call that a run waits for. `kind`: a person's decision, or the output of a client tool."""

    id: str
    kind: Literal["approval", "tool-output"]
    tool_call_id: str
    tool_name: str
    expires_at: datetime | None


class WebhookUsage(msgspec.Struct, frozen=True, rename="camel"):
    """Tokens, and US dollars; null if no model that answered has a price."""

    input_tokens: int
    output_tokens: int
    cost_usd: float | None


class WebhookRun(msgspec.Struct, frozen=True, rename="camel"):
    """The run. `session`: the stored id. `message`: of the answer. `waiting_for`: null unless it waits."""

    run: str
    session: str
    agent: str
    user: str | None
    state: Literal["suspended", "completed", "failed", "cancelled"]
    turn: int
    message: str
    usage: WebhookUsage
    waiting_for: list[WaitingCall] | None


class WebhookBody(msgspec.Struct, frozen=True):
    """What a receiver gets about a run. Has no text of a conversation and no arguments."""

    type: WebhookEvent
    timestamp: datetime
    data: WebhookRun


class WebhookDelivery(msgspec.Struct, frozen=True):
    """One event for one endpoint. `due_at`: when it is sent next, if it is pending. `done_at`: when it was
    delivered or has failed. `run`, `session`: None for a test.
    """

    number: int
    event: str
    state: WebhookState
    attempts: int
    created_at: datetime
    due_at: datetime
    run: str | None = None
    session: str | None = None
    done_at: datetime | None = None
    error: str | None = None


class WebhookBacklog(msgspec.Struct, frozen=True):
    """What is still to be sent to all endpoints that are on. `oldest_s`: the age of the oldest."""

    pending: int = 0
    oldest_s: float = 0.0


class WebhookOutbox(Protocol):
    """Each method is one transaction."""

    async def add(self, endpoint: WebhookEndpoint, secret: bytes) -> None:
        """Store an endpoint with its sealed secret. Raises `Limited` if the tenant has `ENDPOINTS_MAX`, and
        `Conflict` for a second one with the URL `*`.
        """
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
        """Queue a delivery of `TEST_EVENT`. False if there is no such endpoint, or its URL is `*`."""
        ...

    async def replay(self, tenant: TenantId, id: str) -> int | None:
        """Queue the failed deliveries for another day, and switch the endpoint on. Returns how many; None
        without such an endpoint.
        """
        ...

    async def claim(self, count: int, *, each: int, tenant: int, lease_s: float) -> Sequence[DueWebhook]:
        """Take at most `count` deliveries that are due: of each session, endpoint and URL the oldest, at most
        `each` at a time of an endpoint and `tenant` of a tenant. Of an endpoint whose URLs requests name, at
        most half of `each` go to one receiver (host and port). Nobody else takes them for `lease_s`.
        """
        ...

    async def settle(self, delivery: DueWebhook, result: WebhookResult) -> WebhookState | None:
        """Store what became of an attempt. Returns the state of the delivery now; None if its run was deleted
        or another sender has taken it.
        """
        ...

    async def deliveries(
        self,
        tenant: TenantId,
        id: str,
        *,
        limit: int,
        before: int | None = None,
        state: WebhookState | None = None,
    ) -> Sequence[WebhookDelivery] | None:
        """The deliveries of an endpoint, newest first, those with numbers below `before`. None if there is no
        such endpoint.
        """
        ...

    async def takes_urls(self, tenant: TenantId) -> bool:
        """Whether the tenant has an endpoint that is on and has the URL `*`: requests may name receivers."""
        ...

    async def backlog(self) -> WebhookBacklog:
        """What is still to be sent, of all tenants."""
        ...

    async def forget(self, age_s: float = SETTLED_KEPT_S) -> int:
        """Delete deliveries that were settled so long ago, at most `FORGOTTEN_MAX`; returns how many."""
        ...
