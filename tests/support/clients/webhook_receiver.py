"""A receiver of webhooks whose behaviour a test chooses."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from standardwebhooks import Webhook

from rejoin.cli.operate.webhooks import WebhookCommands
from rejoin_adapters.ports.webhooks import WEBHOOK_EVENTS
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox
from rejoin_protocol.ids import TenantId
from rejoin_protocol.security.sealing import Sealer
from tests.support.system.local_system import LocalSystem

KEYS = "k1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


class Received(msgspec.Struct):
    """One request: its headers and its body."""

    headers: dict[str, str]
    body: bytes
    cut: Callable[[], None]
    """Ends its connection without an answer, as a receiver that dies."""

    @property
    def event(self) -> dict[str, Any]:
        """The body as JSON."""
        return msgspec.json.decode(self.body)  # type: ignore[no-any-return]

    @property
    def run(self) -> str:
        """The run that it is about."""
        return str(self.event["data"]["run"])

    def verify(self, secret: str) -> None:
        """Raises `WebhookVerificationError` unless the secret has signed it."""
        Webhook(secret).verify(self.body, self.headers)


class WebhookReceiver:
    """Keeps what it receives; `answer` decides the response."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.answer: Callable[[Received], Awaitable[web.Response]] = self.accept
        self.url = ""
        self.endpoint = ""
        self.secret = ""

    async def accept(self, _: Received) -> web.Response:
        """204."""
        return web.Response(status=204)

    async def hang(self, _: Received) -> web.Response:
        """Never answers."""
        await asyncio.Event().wait()
        raise AssertionError

    async def take(self, request: web.Request) -> web.Response:
        """Handle one request."""
        assert request.transport is not None
        headers = {name.lower(): text for name, text in request.headers.items()}
        one = Received(headers, await request.read(), request.transport.abort)
        self.received.append(one)
        return await self.answer(one)

    async def add(self, system: LocalSystem) -> None:
        """Make it an endpoint of the default tenant."""
        async with webhook_commands(system) as commands:
            self.endpoint, self.secret = (await commands.add(self.url, WEBHOOK_EVENTS)).split()

    async def remove(self, system: LocalSystem) -> None:
        """Let it be told of nothing more."""
        async with webhook_commands(system) as commands:
            await commands.remove(self.endpoint)


@asynccontextmanager
async def webhook_commands(system: LocalSystem) -> AsyncIterator[WebhookCommands]:
    """What `rejoin webhooks` does for the default tenant, without its process."""
    async with await run_store.open_run_store(system.database_url, pool_max=1) as store:
        sealer = Sealer(KEYS, secrets.token_bytes)
        yield WebhookCommands(PostgresWebhookOutbox(store.database), TenantId("default"), sealer)


@asynccontextmanager
async def webhook_receiver() -> AsyncIterator[WebhookReceiver]:
    """A receiver on a free port."""
    receiver = WebhookReceiver()
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    server = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await server.setup()
    try:
        site = web.TCPSite(server, "127.0.0.1", 0)
        await site.start()
        [(host, port)] = [address[:2] for address in server.addresses]
        receiver.url = f"http://{host}:{port}/hook"
        yield receiver
    finally:
        await server.cleanup()
