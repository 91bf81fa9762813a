"""Wires a gateway: settings, connections, routes; serves until it is asked to stop."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address

import msgspec
import structlog
from aiohttp import web

from gateway.families import aisdk, ops, session
from gateway.sessions import Backend
from gateway.web import BODY_BYTES_MAX, SERVICE, Service, observe
from protocol.adapters import broker, migrate, postgres, streams
from protocol.adapters.agents import JetStreamAgents
from protocol.adapters.control import NatsControl
from protocol.adapters.log import JetStreamLog
from protocol.adapters.process import LogFormat, on_stop
from protocol.adapters.requests import JetStreamRequests
from protocol.errors import Invalid
from protocol.ids import AgentName

log = structlog.get_logger("rejoin.gateway")


class Settings(msgspec.Struct, frozen=True):
    """A gateway's settings, `REJOIN_…` each."""

    nats_url: str
    database_url: str
    host: str = "127.0.0.1"
    port: int = 8080
    default_agent: str | None = None
    """Who answers a request that names no agent."""
    nats_replicas: int = 1
    log_age_max_s: float = 24 * 3600
    database_pool_max: int = 10
    drain_notice_s: float = 0.0
    """How long readiness fails before streams are broken: what a load balancer needs to notice."""
    log_level: str = "info"
    log_format: LogFormat = "auto"


def application(service: Service, checks: dict[str, ops.Check]) -> web.Application:
    """The routes over a backend."""
    app = web.Application(middlewares=[observe], client_max_size=BODY_BYTES_MAX)
    app[SERVICE] = service
    app[ops.CHECKS] = checks
    app.add_routes(
        [
            web.post("/api/chat", aisdk.post),
            web.get("/api/chat/{id}/stream", aisdk.resume, allow_head=False),
            web.post("/api/chat/{id}/stop", session.interrupt),
            web.get("/api/agents/{agent}/{session}", session.history),
            web.post("/api/agents/{agent}/{session}", session.post),
            web.get("/api/agents/{agent}/{session}/reconnect", session.reconnect, allow_head=False),
            web.post("/api/agents/{agent}/{session}/interrupt", session.interrupt),
            web.get("/health/live", ops.live),
            web.get("/health/ready", ops.ready),
            web.get("/", ops.page),
            web.get("/page/{file}", ops.page),
        ]
    )
    return app


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[web.Application]:
    """An application with its connections, for as long as the context."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(broker.connect(settings.nats_url, "gateway-api"))
        live = await stack.enter_async_context(broker.connect(settings.nats_url, "gateway-live"))
        wanted = streams.Settings(settings.nats_replicas, settings.log_age_max_s)
        await streams.declare(api, wanted)
        await migrate.check(settings.database_url)
        store = await stack.enter_async_context(
            await postgres.connect(settings.database_url, pool_max=settings.database_pool_max)
        )
        backend = Backend(
            store,
            JetStreamLog(live, api),
            JetStreamRequests(api, wanted),
            NatsControl(api),
            JetStreamAgents(api),
            lambda: datetime.now(UTC),
            secrets.token_bytes,
        )
        default = AgentName(settings.default_agent) if settings.default_agent else None
        service = Service(backend, default, asyncio.Event(), set())

        async def log_stream() -> None:
            await streams.check(api)

        yield application(service, {"database": store.ping, "broker": log_stream})


async def serve(settings: Settings, on_ready: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT. Raises `Invalid` for an address that needs authentication first."""
    if not _loopback(settings.host):
        raise Invalid(f"there is no authentication yet: only loopback is served, not {settings.host}")
    async with assemble(settings) as app:
        runner = web.AppRunner(
            app, handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        stop = asyncio.Event()
        try:
            with on_stop(stop.set):
                await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
                log.info("listening", host=settings.host, port=settings.port)
                on_ready()
                await stop.wait()
            await _drain(app[SERVICE], settings.drain_notice_s)
        finally:
            await runner.cleanup()
    log.info("stopped")


async def _drain(service: Service, notice_s: float) -> None:
    """Fail readiness, then break the streams: their clients resume elsewhere. None is ended cleanly."""
    service.stopping.set()
    log.info("draining", streams=len(service.streams))
    await asyncio.sleep(notice_s)
    for transport in tuple(service.streams):
        transport.abort()


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
