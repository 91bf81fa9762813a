"""`WebhookOutbox` in PostgreSQL."""

from collections.abc import Sequence

import msgspec

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
from rejoin_adapters.postgres.pool import Database
from rejoin_protocol.errors import Conflict, Limited
from rejoin_protocol.ids import TenantId

RETRY_AFTER_S = 60


class _Settled(msgspec.Struct):
    state: WebhookState | None


class PostgresWebhookOutbox:
    """The adapter of `WebhookOutbox`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, endpoint: WebhookEndpoint, secret: bytes) -> None:
        """See `WebhookOutbox`."""
        query = """
            with home as (insert into tenants (id) values ($2) on conflict do nothing),
            existing as (select count(*) < $7 as has_room from webhook_endpoints where tenant_id = $2),
            added as (
              insert into webhook_endpoints (id, tenant_id, url, events, secret, created_at)
              select $1, $2, $3, $4, $5, $6 from existing where has_room
              on conflict do nothing returning id)
            select case
              when exists (select from added) then 'added' when has_room then 'conflict' else 'full' end
            from existing
        """
        row = endpoint.id, endpoint.tenant, endpoint.url, list(endpoint.events), secret, endpoint.created_at
        outcome = await self._database.fetch_text_as_actor(query, *row, ENDPOINTS_MAX)
        if outcome == "conflict":
            raise Conflict(f"the tenant has a webhook with the URL {endpoint.url}")
        if outcome != "added":
            raise Limited(f"a tenant has at most {ENDPOINTS_MAX} webhook endpoints", RETRY_AFTER_S)

    async def list(self, tenant: TenantId) -> Sequence[WebhookEndpoint]:
        """See `WebhookOutbox`."""
        query = """
            select coalesce(json_agg(json_build_object(
              'id', id, 'tenant', tenant_id, 'url', url, 'events', events, 'created_at', created_at,
              'disabled_at', disabled_at,
              'pending', (
                select count(*) from webhook_deliveries where endpoint_id = e.id and state = 'pending'),
              'failed', (
                select count(*) from webhook_deliveries where endpoint_id = e.id and state = 'failed'),
              'last_error', coalesce(
                (select error from webhook_deliveries where endpoint_id = e.id and state = 'pending'
                  and error is not null order by number desc limit 1),
                (select error from webhook_deliveries where endpoint_id = e.id and state = 'failed'
                  order by number desc limit 1))) order by created_at, id), '[]')
            from webhook_endpoints e where tenant_id = $1
        """
        return await self._database.fetch_json(list[WebhookEndpoint], query, tenant)

    async def remove(self, tenant: TenantId, id: str) -> bool:
        """See `WebhookOutbox`."""
        query = "delete from webhook_endpoints where tenant_id = $1 and id = $2 returning to_json(id)"
        return await self._database.fetch_text_as_actor(query, tenant, id) is not None

    async def rotate(self, tenant: TenantId, id: str, secret: bytes, overlap_s: float) -> bool:
        """See `WebhookOutbox`."""
        query = """
            update webhook_endpoints set old_secret = secret, secret = $3,
              old_secret_until = clock_timestamp() + $4 * interval '1 second'
            where tenant_id = $1 and id = $2 returning to_json(id)
        """
        return await self._database.fetch_text_as_actor(query, tenant, id, secret, overlap_s) is not None

    async def test(self, tenant: TenantId, id: str) -> bool:
        """See `WebhookOutbox`."""
        query = """
            insert into webhook_deliveries (endpoint_id, tenant_id, event, payload, expires_at)
            select id, tenant_id, $3::text, json_build_object(
              'type', $3::text, 'timestamp', clock_timestamp(), 'data', json_build_object('endpoint', id)),
              clock_timestamp() + interval '1 day'
            from webhook_endpoints where tenant_id = $1 and id = $2 and url <> '*'
            returning to_json(number)
        """
        return await self._database.fetch_text(query, tenant, id, TEST_EVENT) is not None

    async def replay(self, tenant: TenantId, id: str) -> int | None:
        """See `WebhookOutbox`."""
        query = """
            with endpoint as (
              update webhook_endpoints set disabled_at = null where tenant_id = $1 and id = $2 returning id),
            again as (
              update webhook_deliveries d set state = 'pending', done_at = null, attempts = 0,
                due_at = clock_timestamp(), expires_at = clock_timestamp() + interval '1 day'
              from endpoint where d.endpoint_id = endpoint.id and d.number in (
                select number from webhook_deliveries f
                where f.endpoint_id = endpoint.id and f.state = 'failed' order by number
                limit greatest(0, $3 - (
                  select count(*) from webhook_deliveries
                  where endpoint_id = $2 and state = 'pending')))
              returning d.number)
            select to_json((select count(*) from again)) from endpoint
        """
        count = await self._database.fetch_text_as_actor(query, tenant, id, PENDING_MAX)
        return None if count is None else int(count)

    async def claim(self, count: int, *, each: int, tenant: int, lease_s: float) -> Sequence[DueWebhook]:
        """See `WebhookOutbox`."""
        query = "select claim_webhooks($1, $2, $3, $4)"
        return await self._database.fetch_json(list[DueWebhook], query, count, each, tenant, lease_s)

    async def settle(self, delivery: DueWebhook, result: WebhookResult) -> WebhookState | None:
        """See `WebhookOutbox`."""
        query = "select json_build_object('state', settle_delivery($1, $2, $3, $4, $5))"
        arguments = delivery.number, delivery.attempt, result.error, result.retry_s, result.is_gone
        return (await self._database.fetch_json(_Settled, query, *arguments)).state

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
        query = """
            select (
              select coalesce(json_agg(json_build_object(
                'number', number, 'event', event, 'state', state, 'attempts', attempts, 'run', run_id,
                'session', session_id, 'created_at', created_at, 'due_at', due_at, 'done_at', done_at,
                'error', error) order by number desc), '[]')
              from (
                select * from webhook_deliveries
                where endpoint_id = e.id and ($4::bigint is null or number < $4)
                  and ($5::text is null or state = $5)
                order by number desc limit $3) page)
            from webhook_endpoints e where tenant_id = $1 and id = $2
        """
        return await self._database.find_json(list[WebhookDelivery], query, tenant, id, limit, before, state)

    async def takes_urls(self, tenant: TenantId) -> bool:
        """See `WebhookOutbox`."""
        query = """
            select to_json(id) from webhook_endpoints
            where tenant_id = $1 and url = '*' and disabled_at is null
        """
        return await self._database.fetch_text(query, tenant) is not None

    async def backlog(self) -> WebhookBacklog:
        """See `WebhookOutbox`."""
        query = """
            select json_build_object(
              'pending', count(*),
              'oldest_s', coalesce(extract(epoch from clock_timestamp() - min(d.created_at)), 0))
            from webhook_deliveries d join webhook_endpoints e on e.id = d.endpoint_id
            where d.state = 'pending' and e.disabled_at is null
        """
        return await self._database.fetch_json(WebhookBacklog, query)

    async def forget(self, age_s: float = SETTLED_KEPT_S) -> int:
        """See `WebhookOutbox`."""
        query = """
            with gone as (
              delete from webhook_deliveries where number in (
                select number from webhook_deliveries
                where done_at < clock_timestamp() - $1 * interval '1 second' order by done_at limit $2)
              returning number)
            select to_json(count(*)) from gone
        """
        return await self._database.fetch_json(int, query, age_s, FORGOTTEN_MAX)
