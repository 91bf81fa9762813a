"""`rejoin webhooks`: the receivers that are told of a tenant's runs."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime

import click
import msgspec

from rejoin.cli.operate.printing import moment, printable
from rejoin_adapters.ports.webhooks import WebhookEndpoint, WebhookOutbox
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox
from rejoin_adapters.process.service_process import LogFormat
from rejoin_adapters.webhook_endpoints import WebhookEndpoints
from rejoin_protocol.ids import TenantId
from rejoin_protocol.security.sealing import Sealer


class WebhookSettings(msgspec.Struct, frozen=True):
    """The settings of `rejoin webhooks`."""

    database_url: str
    tenant: str = "default"
    context_encryption_keys: str | None = None
    log_level: str = "warning"
    log_format: LogFormat = "auto"


class WebhookCommands(msgspec.Struct, frozen=True):
    """The commands on one tenant's endpoints. Each returns the text to print."""

    outbox: WebhookOutbox
    tenant: TenantId
    sealer: Sealer | None

    async def add(self, url: str, events: Sequence[str]) -> str:
        """Add an endpoint; its id and its secret. Raises `Invalid`, `Limited`."""
        endpoint, secret = await self._endpoints.add(url, events, datetime.now(UTC))
        return f"{endpoint.id}\n{secret}"

    async def list(self) -> str:
        """One line for each endpoint."""
        return "\n".join(_line(one) for one in await self.outbox.list(self.tenant))

    async def remove(self, id: str) -> str:
        """Remove an endpoint. Raises `NotFound`."""
        self._endpoints.require(id, found=await self.outbox.remove(self.tenant, id))
        return "removed, with what was still to be sent"

    async def rotate(self, id: str, hours: int) -> str:
        """Replace an endpoint's secret; the new one. Raises `NotFound`."""
        return await self._endpoints.rotate(id, hours * 3600.0)

    async def test(self, id: str) -> str:
        """Send a test event. Raises `NotFound`."""
        self._endpoints.require(id, found=await self.outbox.test(self.tenant, id))
        return "a runner sends it within seconds; `rejoin webhooks list` says if it could not"

    async def replay(self, id: str) -> str:
        """Send again what has failed. Raises `NotFound`."""
        count = await self.outbox.replay(self.tenant, id)
        self._endpoints.require(id, found=count is not None)
        return f"{count} deliveries are sent again"

    @property
    def _endpoints(self) -> WebhookEndpoints:
        return WebhookEndpoints(self.outbox, self.tenant, self.sealer, secrets.token_bytes)


def _line(one: WebhookEndpoint) -> str:
    state = f"off since {moment(one.disabled_at)}" if one.disabled_at is not None else "on"
    counts = f"{one.pending} pending, {one.failed} failed"
    error = f"last error: {printable(one.last_error)}" if one.last_error else ""
    return "  ".join([one.id, state, counts, printable(one.url), ",".join(one.events), error]).rstrip()


def execute(settings: WebhookSettings, command: Callable[[WebhookCommands], Awaitable[str]]) -> None:
    """Connect, run one command, and print its result."""

    async def run() -> str:
        keys = settings.context_encryption_keys
        sealer = Sealer(keys, secrets.token_bytes) if keys else None
        async with await run_store.open_run_store(settings.database_url, pool_max=1) as store:
            outbox = PostgresWebhookOutbox(store.database)
            return await command(WebhookCommands(outbox, TenantId(settings.tenant), sealer))

    if text := asyncio.run(run()):
        click.echo(text)
