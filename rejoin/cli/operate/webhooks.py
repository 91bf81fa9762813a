"""`rejoin webhooks`: the receivers that are told of a tenant's runs."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import click
import msgspec

from rejoin.cli.operate.printing import moment, printable
from rejoin_adapters.ports.webhooks import WebhookEndpoint, WebhookOutbox
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox
from rejoin_adapters.process.service_process import LogFormat
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import URL_CHARS_MAX
from rejoin_protocol.security.sealing import Sealer
from rejoin_protocol.security.webhook_signature import WEBHOOK_SECRET_BYTES, format_secret, sealing_place


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
        id, secret = f"we_{secrets.token_hex(12)}", format_secret(secrets.token_bytes(WEBHOOK_SECRET_BYTES))
        endpoint = WebhookEndpoint(id, self.tenant, check_url(url), events, datetime.now(UTC))
        await self.outbox.add(endpoint, self._seal(id, secret))
        return f"{id}\n{secret}"

    async def list(self) -> str:
        """One line for each endpoint."""
        return "\n".join(_line(one) for one in await self.outbox.list(self.tenant))

    async def remove(self, id: str) -> str:
        """Remove an endpoint. Raises `NotFound`."""
        self._require(id, found=await self.outbox.remove(self.tenant, id))
        return "removed, with what was still to be sent"

    async def rotate(self, id: str, hours: int) -> str:
        """Replace an endpoint's secret; the new one. Raises `NotFound`."""
        secret = format_secret(secrets.token_bytes(WEBHOOK_SECRET_BYTES))
        sealed = self._seal(id, secret)
        self._require(id, found=await self.outbox.rotate(self.tenant, id, sealed, hours * 3600.0))
        return secret

    async def test(self, id: str) -> str:
        """Send a test event. Raises `NotFound`."""
        self._require(id, found=await self.outbox.test(self.tenant, id))
        return "a runner sends it within seconds; `rejoin webhooks list` says if it could not"

    async def replay(self, id: str) -> str:
        """Send again what has failed. Raises `NotFound`."""
        count = await self.outbox.replay(self.tenant, id)
        self._require(id, found=count is not None)
        return f"{count} deliveries are sent again"

    def _seal(self, id: str, secret: str) -> bytes:
        if self.sealer is None:
            raise Invalid("set REJOIN_CONTEXT_ENCRYPTION_KEYS, the same as runners have: it encrypts secrets")
        return self.sealer.seal(secret, self.tenant, sealing_place(id))

    def _require(self, id: str, *, found: bool) -> None:
        if not found:
            raise NotFound(f"tenant {self.tenant} has no webhook endpoint {id!r}")


def check_url(text: str) -> str:
    """A URL to which webhooks can be sent. The sender checks its address. Raises `Invalid`."""
    try:
        url = urlsplit(text)
        is_whole = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not text.isascii() or not text.isprintable() or len(text) > URL_CHARS_MAX:
        raise Invalid("a webhook's URL is an http or https URL")
    if "@" in url.netloc:
        raise Invalid("a URL must not hold credentials: receivers check the signature")
    return text


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
