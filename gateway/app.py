"""Wires a gateway: settings, connections, routes; serves until it is asked to stop."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_address

import structlog
from aiohttp import web

from gateway import fetch
from gateway.attachments import Attachments
from gateway.auth import Gate, entrance
from gateway.auth import Settings as AuthSettings
from gateway.families import (
    agent_chat,
    aisdk,
    artifacts,
    chat,
    conversations,
    executions,
    files,
    ops,
    parts,
    run,
    session,
    threads,
)
from gateway.headers import Cors, secure
from gateway.limits import Rate
from gateway.routing import Route, mount
from gateway.sessions import Backend
from gateway.web import BODY_BYTES_MAX, SERVICE, Attention, Service, observe
from protocol.adapters import broker, migrate, postgres, streams
from protocol.adapters.agents import JetStreamAgents
from protocol.adapters.artifacts import Artifacts
from protocol.adapters.control import NatsControl
from protocol.adapters.files import JetStreamFiles
from protocol.adapters.keys import Keys
from protocol.adapters.log import JetStreamLog
from protocol.adapters.process import LogFormat, on_stop
from protocol.adapters.requests import JetStreamRequests
from protocol.adapters.tasks import beside
from protocol.adapters.threads import Threads
from protocol.errors import Invalid, Unavailable
from protocol.ids import AgentName
from protocol.seal import Sealer

log = structlog.get_logger("rejoin.gateway")


FAMILIES = (
    agent_chat,
    chat,
    aisdk,
    session,
    run,
    executions,
    conversations,
    artifacts,
    files,
    parts,
    threads,
    ops,
)
ROUTES: tuple[Route, ...] = tuple(route for family in FAMILIES for route in family.ROUTES)
NOTE_USE_S = 10.0


class Settings(AuthSettings, frozen=True, kw_only=True):
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
    requests_per_minute: int | None = None
    """Of one credential, at one gateway."""
    tenant_requests_per_minute: int | None = None
    agent_chat_limit_s: float | None = 120.0
    """How long a run of the agent-chat family's stream may take."""
    agent_chat_stop_when_left: bool = True
    """Whether it stops when its client leaves, unlike everybody else's."""
    cors_origins: str = ""
    """Origins whose pages may call, separated by spaces; `*` for all of them."""
    context_keys: str | None = None
    """What contexts are sealed with, `id:base64,…` of 32 bytes: the first seals, all open."""
    drain_notice_s: float = 0.0
    """How long readiness fails before streams are broken: what a load balancer needs to notice."""
    log_level: str = "info"
    log_format: LogFormat = "auto"


def application(service: Service, checks: dict[str, ops.Check]) -> web.Application:
    """The routes over a backend."""
    app = web.Application(middlewares=[observe], client_max_size=BODY_BYTES_MAX)
    app[SERVICE] = service
    app[ops.CHECKS] = checks
    mount(app, ROUTES)
    app.on_response_prepare.append(secure(service.cors))
    return app


@asynccontextmanager
async def assemble(settings: Settings) -> AsyncIterator[web.Application]:
    """An application with its connections, for as long as the context."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(broker.connect(settings.nats_url, "gateway-api"))
        live = await stack.enter_async_context(broker.connect(settings.nats_url, "gateway-live"))
        stored = await stack.enter_async_context(broker.connect(settings.nats_url, "gateway-files"))
        remote = await stack.enter_async_context(fetch.opened())
        wanted = streams.Settings(settings.nats_replicas, settings.log_age_max_s)
        await streams.require(api)
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
            Threads(store.database),
            Artifacts(store.database),
            lambda: datetime.now(UTC),
            secrets.token_bytes,
            Attachments(JetStreamFiles(stored), remote),
            Sealer(settings.context_keys, secrets.token_bytes) if settings.context_keys else None,
        )
        gate = await stack.enter_async_context(entrance(settings, Keys(store.database)))
        service = Service(
            backend=backend,
            gate=gate,
            default_agent=AgentName(settings.default_agent) if settings.default_agent else None,
            attention=Attention(settings.agent_chat_limit_s, settings.agent_chat_stop_when_left),
            cors=Cors(frozenset(settings.cors_origins.split())),
            rates=(_rate(settings.requests_per_minute), _rate(settings.tenant_requests_per_minute)),
        )

        async def log_stream() -> None:
            await streams.check(api)

        checks: dict[str, ops.Check] = {"database": store.ping, "broker": log_stream}
        async with beside(_note_use(gate)):
            yield application(service, checks)


async def serve(settings: Settings, on_ready: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT. Raises `Invalid` for settings that would let anybody in from anywhere."""
    if settings.anonymous and not _loopback(settings.host):
        raise Invalid(f"without credentials only loopback is served, not {settings.host}")
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


async def _note_use(gate: Gate) -> None:
    while True:
        await asyncio.sleep(NOTE_USE_S)
        try:
            await gate.note_use()
        except Unavailable as fault:
            log.warning("use_not_noted", error=str(fault))


def _rate(per_minute: int | None) -> Rate | None:
    return None if per_minute is None else Rate(max(per_minute, 1))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
