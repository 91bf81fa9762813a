"""`WebhookOutbox` in memory, over the rows of a `MemoryDatabase`."""

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import msgspec

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.tables import MemoryDatabase, WebhookRow
from rejoin_adapters.ports.webhooks import (
    ENDPOINTS_MAX,
    FORGOTTEN_MAX,
    PENDING_MAX,
    SETTLED_KEPT_S,
    TEST_EVENT,
    DueWebhook,
    WebhookBacklog,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookResult,
    WebhookState,
)
from rejoin_protocol.errors import Conflict, Limited
from rejoin_protocol.ids import TenantId

ADD_RETRY_AFTER_S = 60


class MemoryWebhookOutbox:
    """`WebhookOutbox` in memory."""

    def __init__(self, database: MemoryDatabase) -> None:
        self._database = database

    async def add(self, endpoint: WebhookEndpoint, secret: bytes) -> None:
        """See `WebhookOutbox`."""
        existing = await self.list(endpoint.tenant)
        if len(existing) >= ENDPOINTS_MAX:
            raise Limited(f"a tenant has at most {ENDPOINTS_MAX} webhook endpoints", ADD_RETRY_AFTER_S)
        if endpoint.url == "*" and any(one.url == "*" for one in existing):
            raise Conflict(f"the tenant has a webhook with the URL {endpoint.url}")
        self._database.webhook_endpoints[endpoint.id] = endpoint
        self._database.webhook_secrets[endpoint.id] = (secret, None, now_utc())
        self._record("added", endpoint)

    async def list(self, tenant: TenantId) -> Sequence[WebhookEndpoint]:
        """See `WebhookOutbox`."""
        return [
            msgspec.structs.replace(one, **self._counts(one.id))
            for one in self._database.webhook_endpoints.values()
            if one.tenant == tenant
        ]

    def _counts(self, endpoint: str) -> dict[str, Any]:
        rows = [row for row in self._database.webhooks if row.endpoint == endpoint]
        pending, failed = ([row for row in rows if row.state == state] for state in ("pending", "failed"))
        errors = [row.error for part in (failed, pending) for row in part if row.error is not None]
        return {"pending": len(pending), "failed": len(failed), "last_error": errors[-1] if errors else None}

    def _find(self, tenant: TenantId, id: str) -> WebhookEndpoint | None:
        found = self._database.webhook_endpoints.get(id)
        return found if found is not None and found.tenant == tenant else None

    async def remove(self, tenant: TenantId, id: str) -> bool:
        """See `WebhookOutbox`."""
        endpoint = self._find(tenant, id)
        if endpoint is None:
            return False
        self._record("removed", endpoint)
        del self._database.webhook_endpoints[id]
        self._database.webhooks = [row for row in self._database.webhooks if row.endpoint != id]
        return True

    async def rotate(self, tenant: TenantId, id: str, secret: bytes, overlap_s: float) -> bool:
        """See `WebhookOutbox`."""
        endpoint = self._find(tenant, id)
        if endpoint is None:
            return False
        self._record("rotated", endpoint)
        until = now_utc() + timedelta(seconds=overlap_s)
        self._database.webhook_secrets[id] = (secret, self._database.webhook_secrets[id][0], until)
        return True

    async def test(self, tenant: TenantId, id: str) -> bool:
        """See `WebhookOutbox`."""
        endpoint = self._find(tenant, id)
        if endpoint is None or endpoint.url == "*":
            return False
        self._database.queue_webhook(id, TEST_EVENT, {"endpoint": id})
        return True

    async def replay(self, tenant: TenantId, id: str) -> int | None:
        """See `WebhookOutbox`."""
        endpoint = self._find(tenant, id)
        if endpoint is None:
            return None
        if endpoint.disabled_at is not None:
            self._record("enabled", endpoint)
        self._database.webhook_endpoints[id] = msgspec.structs.replace(endpoint, disabled_at=None)
        rows = [row for row in self._database.webhooks if row.endpoint == id]
        room = max(0, PENDING_MAX - sum(row.state == "pending" for row in rows))
        failed = [row for row in rows if row.state == "failed"][:room]
        for row in failed:
            row.queue_again()
        return len(failed)

    async def claim(self, count: int, *, each: int, tenant: int, lease_s: float) -> Sequence[DueWebhook]:
        """See `WebhookOutbox`."""
        now, endpoints = now_utc(), self._database.webhook_endpoints
        pending = [row for row in self._database.webhooks if row.state == "pending"]
        sending = [row for row in pending if row.is_leased(now)]
        busy = Counter(row.endpoint for row in sending)
        busy_receivers = Counter((row.endpoint, _receiver(row.url)) for row in sending)
        busy_tenants = Counter(endpoints[row.endpoint].tenant for row in sending)
        taken: list[DueWebhook] = []
        begun: set[tuple[str, str, str | None]] = set()
        for row in pending:
            endpoint = endpoints[row.endpoint]
            place = (row.endpoint, row.session or f"test {row.number}", row.url)
            receiver = (row.endpoint, _receiver(row.url))
            is_first = place not in begun
            begun.add(place)
            if (
                is_first
                and endpoint.disabled_at is None
                and row.due_at <= now
                and not row.is_leased(now)
                and len(taken) < count
                and busy[endpoint.id] < each
                and (endpoint.url != "*" or busy_receivers[receiver] < max(1, each // 2))
                and busy_tenants[endpoint.tenant] < tenant
            ):
                busy[endpoint.id] += 1
                busy_receivers[receiver] += 1
                busy_tenants[endpoint.tenant] += 1
                row.attempts += 1
                row.leased_until = now + timedelta(seconds=lease_s)
                taken.append(self._due(row, endpoint))
        return taken

    def _due(self, row: WebhookRow, endpoint: WebhookEndpoint) -> DueWebhook:
        secret, old, until = self._database.webhook_secrets[endpoint.id]
        return DueWebhook(
            row.number,
            endpoint.id,
            endpoint.tenant,
            row.url or endpoint.url,
            row.attempts,
            msgspec.Raw(row.payload),
            secret,
            old if until > now_utc() else None,
            row.url is not None,
        )

    async def settle(self, delivery: DueWebhook, result: WebhookResult) -> WebhookState | None:
        """See `WebhookOutbox`."""
        row = next((one for one in self._database.webhooks if one.number == delivery.number), None)
        is_late = row is not None and row.attempts != delivery.attempt and result.error is not None
        if row is None or row.state != "pending" or is_late:
            return None
        endpoint = self._database.webhook_endpoints[row.endpoint]
        if result.is_gone and endpoint.disabled_at is None and row.url is None:
            endpoint = msgspec.structs.replace(endpoint, disabled_at=now_utc())
            self._database.webhook_endpoints[row.endpoint] = endpoint
            self._record("disabled", endpoint)
        row.error, row.leased_until = result.error, None
        again = now_utc() + timedelta(seconds=result.retry_s)
        if result.error is None or result.is_gone or again > row.expires_at:
            row.state = "delivered" if result.error is None else "failed"
            row.done_at = now_utc()
            return row.state
        row.due_at = again
        return row.state

    async def deliveries(
        self,
        tenant: TenantId,
        id: str,
        *,
        limit: int,
        before: int | None = None,
        state: WebhookState | None = None,
    ) -> Sequence[WebhookDelivery] | None:
        """See `WebhookOutbox`."""
        if self._find(tenant, id) is None:
            return None
        found = [
            WebhookDelivery(
                row.number,
                msgspec.json.decode(row.payload)["type"],
                row.state,
                row.attempts,
                row.created_at,
                row.due_at,
                row.run,
                row.session,
                row.done_at,
                row.error,
            )
            for row in reversed(self._database.webhooks)
            if row.endpoint == id and (before is None or row.number < before) and state in {None, row.state}
        ]
        return found[:limit]

    async def takes_urls(self, tenant: TenantId) -> bool:
        """See `WebhookOutbox`."""
        return any(
            one.tenant == tenant and one.url == "*" and one.disabled_at is None
            for one in self._database.webhook_endpoints.values()
        )

    async def backlog(self) -> WebhookBacklog:
        """See `WebhookOutbox`."""
        ages_s = [
            (now_utc() - row.created_at).total_seconds()
            for row in self._database.webhooks
            if row.state == "pending" and self._database.webhook_endpoints[row.endpoint].disabled_at is None
        ]
        return WebhookBacklog(len(ages_s), max(ages_s, default=0.0))

    def _record(self, what: str, endpoint: WebhookEndpoint) -> None:
        self._database.record_audit(
            endpoint.tenant,
            f"webhook.{what}",
            endpoint.id,
            url=endpoint.url.partition("?")[0],
            events=list(endpoint.events),
        )

    async def forget(self, age_s: float = SETTLED_KEPT_S) -> int:
        """See `WebhookOutbox`."""
        since = now_utc() - timedelta(seconds=age_s)
        old = [row for row in self._database.webhooks if row.done_at is not None and row.done_at < since]
        gone = {row.number for row in old[:FORGOTTEN_MAX]}
        self._database.webhooks = [row for row in self._database.webhooks if row.number not in gone]
        return len(gone)


def _receiver(url: str | None) -> str | None:
    """SQL `webhook_receiver`: the host and the port of a URL, in one form."""
    if url is None:
        return None
    parts = urlsplit(url)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    return f"{(parts.hostname or '').rstrip('.')}:{port}"
