"""A receiver of webhooks whose behaviour a test chooses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from standardwebhooks import Webhook

from tests.support.system.local_system import LocalSystem
from tests.support.system.processes import run_rejoin

KEYS = "k1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


class Received(msgspec.Struct):
    """One request: its headers and its body."""

    headers: dict[str, str]
    body: bytes

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
        one = Received({name.lower(): text for name, text in request.headers.items()}, await request.read())
        self.received.append(one)
        return await self.answer(one)

    async def add(self, system: LocalSystem, tenant: str = "default", *words: str) -> None:
        """Make it an endpoint of a tenant."""
        arguments = ("webhooks", "--tenant", tenant, "add", self.url, *words)
        code, out, err = await run_rejoin(system, *arguments, REJOIN_CONTEXT_ENCRYPTION_KEYS=KEYS)
        assert code == 0, err
        self.endpoint, self.secret = out.split()


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
