"""Wires a gateway: settings, connections, routes; serves until it is asked to stop."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address

import structlog
from aiohttp import web

from gateway import fetch
from gateway.attachments import Attachments
from gateway.auth import Gate, entrance
from gateway.auth import Settings as AuthSettings
from gateway.bodies import BODY_BYTES_MAX
from gateway.families import (
    agent_chat,
    aisdk,
    artifacts,
    chat,
    completions,
    conversations,
    docs,
    executions,
    files,
    inspect,
    mcp,
    ops,
    pages,
    parts,
    plugs,
    registry,
    responses,
    run,
    session,
    threads,
)
from gateway.headers import Cors, secure
from gateway.limits import Rates, per_minute
from gateway.metrics import Metrics
from gateway.readiness import Check, Readiness
from gateway.routing import Route, mount
from gateway.sessions import Backend
from gateway.web import SERVICE, Attention, Service, observe
from protocol.adapters import broker, census, exposition, migrate, postgres, streams, tracing
from protocol.adapters.agents import BELIEVED_S, JetStreamAgents
from protocol.adapters.artifacts import Artifacts
from protocol.adapters.control import NatsControl
from protocol.adapters.database import Database
from protocol.adapters.dialogues import Dialogues
from protocol.adapters.files import JetStreamFiles
from protocol.adapters.holdings import HeldFiles, Holdings
from protocol.adapters.keys import Keys
from protocol.adapters.log import JetStreamLog
from protocol.adapters.process import LogFormat, allow_files, on_stop
from protocol.adapters.requests import JetStreamRequests
from protocol.adapters.store import Count, Limits
from protocol.adapters.tasks import beside
from protocol.adapters.tenants import Tenants
from protocol.adapters.threads import Threads
from protocol.errors import Invalid, Unavailable
from protocol.ids import AgentName, TenantId
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
    inspect,
    registry,
    artifacts,
    files,
    parts,
    threads,
    mcp,
    pages,
    completions,
    responses,
    docs,
    ops,
)
ROUTES: tuple[Route, ...] = tuple(route for family in FAMILIES for route in family.ROUTES)
NOTE_USE_S = 10.0
CENSUS_S = 10.0


class Settings(AuthSettings, frozen=True, kw_only=True):
    """A gateway's settings, `REJOIN_…` each."""

    nats_url: str
    """NATS 2.12 or newer with JetStream; servers of a cluster are separated by commas."""
    database_url: str
    """PostgreSQL 15 or newer."""
    host: str = "127.0.0.1"
    """Where it listens."""
    port: int = 8080
    default_agent: str | None = None
    """Who answers a request that names no agent."""
    agents_believed_s: float = BELIEVED_S
    """How long an agent's entry is believed without asking the broker again."""
    nats_replicas: int = 1
    """How many servers keep each stream: 3 in a cluster."""
    log_age_max_s: float = 24 * 3600
    """How long a run can be replayed; what it said is in the database for longer."""
    database_pool_max: int = 10
    """Connections of one process."""
    requests_per_minute: Count | None = None
    """Of one credential, at one gateway."""
    tenant_requests_per_minute: Count | None = None
    """These, and the next four, of a tenant that has no limits of its own (`rejoin tenants limits`)."""
    tenant_running_max: Count | None = None
    """Runs at once: what is beyond waits its turn. The same for gateways and runners."""
    tenant_queued_max: Count | None = None
    """Runs that wait: what is beyond is refused."""
    tenant_tokens_per_day: Count | None = None
    """Once they are spent, requests are refused until midnight, UTC."""
    tenant_file_bytes_max: Count | None = None
    """Of all files that it has: what is beyond is refused, until sessions that have some are deleted."""
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
    metrics_host: str = "127.0.0.1"
    """Of the port below."""
    metrics_port: int | None = None
    """Where `/metrics` is, and then nowhere else; unsaid, it is one of the gateway's routes."""
    otlp_endpoint: str | None = None
    """Where spans go, `http://…/v1/traces`; needs the extra `otel`."""
    log_level: str = "info"
    log_format: LogFormat = "auto"
    """`json`, `console`, or `auto`: JSON unless stderr is a terminal."""


def application(service: Service, checks: Mapping[str, Check], *, metrics: bool = True) -> web.Application:
    """The routes over a backend."""
    app = web.Application(middlewares=[observe], client_max_size=BODY_BYTES_MAX)
    app[SERVICE] = service
    app[ops.READINESS] = Readiness(checks)
    app[ops.METRICS_SHOWN] = metrics
    app[docs.CONTRACT] = docs.of(ROUTES)
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
            await postgres.connect(
                settings.database_url, pool_max=settings.database_pool_max, limits=_limits(settings)
            )
        )
        metrics = Metrics()
        backend = Backend(
            store,
            JetStreamLog(live, api, metrics.live_lag),
            JetStreamRequests(api, wanted),
            NatsControl(api),
            JetStreamAgents(api, settings.agents_believed_s),
            Threads(store.database),
            Artifacts(store.database),
            lambda: datetime.now(UTC),
            secrets.token_bytes,
            Attachments(HeldFiles(JetStreamFiles(stored), Holdings(store.database)), remote),
            Sealer(settings.context_keys, secrets.token_bytes) if settings.context_keys else None,
            metrics,
        )
        gate = await stack.enter_async_context(entrance(settings, Keys(store.database)))
        service = Service(
            backend=backend,
            gate=gate,
            default_agent=AgentName(settings.default_agent) if settings.default_agent else None,
            attention=Attention(settings.agent_chat_limit_s, settings.agent_chat_stop_when_left),
            cors=Cors(frozenset(settings.cors_origins.split())),
            rate=per_minute(settings.requests_per_minute),
            rates=Rates(per_minute(settings.tenant_requests_per_minute), _rate_of(Tenants(store.database))),
        )

        checks = _checks(store.database, api, (live, stored))
        app = application(service, checks, metrics=settings.metrics_port is None)
        app[mcp.ENDPOINT] = await stack.enter_async_context(mcp.opened(Dialogues(store.database)))
        async with beside(_note_use(gate), metrics.watch_loop(), _count_runs(metrics, store.database)):
            yield app


async def serve(settings: Settings, on_ready: Callable[[], None], kill: plugs.Kill | None = None) -> None:
    """Until SIGTERM or SIGINT. `kill`: what the page may do to the runners of `rejoin dev`.

    Raises `Invalid` for settings that would let anybody in from anywhere.
    """
    if settings.anonymous and not loopback(settings.host):
        raise Invalid(f"without credentials only loopback is served, not {settings.host}")
    async with AsyncExitStack() as stack:
        stack.enter_context(tracing.exporting("rejoin-gateway", settings.otlp_endpoint))
        app = await stack.enter_async_context(assemble(settings))
        registry = app[SERVICE].backend.metrics.registry
        stack.enter_context(exposition.shown(registry, settings.metrics_host, settings.metrics_port))
        if kill is not None and loopback(settings.host):
            plugs.offer(app, kill)
        runner = web.AppRunner(
            app, handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        stop, files_max = asyncio.Event(), allow_files()
        try:
            with on_stop(stop.set):
                await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
                log.info("listening", host=settings.host, port=settings.port, files_max=files_max)
                on_ready()
                await stop.wait()
            await _drain(app[SERVICE], settings.drain_notice_s)
        finally:
            await runner.cleanup()
    log.info("stopped")


async def _drain(service: Service, notice_s: float) -> None:
    """Fail readiness, and break the streams once that has been noticed."""
    service.stopping.set()
    service.backend.metrics.draining()
    log.info("draining", streams=len(service.streams))
    await asyncio.sleep(notice_s)
    service.stop()


def _checks(database: Database, api: broker.Broker, others: Sequence[broker.Broker]) -> dict[str, Check]:
    """What a chat needs."""

    async def database_is_migrated() -> None:
        if lacking := await migrate.behind(database):
            raise Unavailable(f"the database misses migrations {', '.join(lacking)}")

    async def streams_are_there() -> None:
        if lacking := await streams.missing(api):
            raise Unavailable(f"the broker misses the streams {', '.join(lacking)}")

    async def log_answers() -> None:
        if not all(connection.connected for connection in others):
            raise Unavailable("the broker is away")
        await streams.check(api)

    return {"database": database_is_migrated, "streams": streams_are_there, "broker": log_answers}


async def _count_runs(metrics: Metrics, database: Database) -> None:
    while True:
        await asyncio.sleep(CENSUS_S)
        with suppress(Unavailable):  # readiness says so
            metrics.busy(await census.busy(database))


async def _note_use(gate: Gate) -> None:
    while True:
        await asyncio.sleep(NOTE_USE_S)
        try:
            await gate.note_use()
        except Unavailable as fault:
            log.warning("use_not_noted", error=str(fault))


def _limits(settings: Settings) -> Limits:
    return Limits(
        running_max=settings.tenant_running_max,
        queued_max=settings.tenant_queued_max,
        tokens_per_day=settings.tenant_tokens_per_day,
        file_bytes_max=settings.tenant_file_bytes_max,
    )


def _rate_of(tenants: Tenants) -> Callable[[TenantId], Awaitable[int | None]]:
    async def find(tenant: TenantId) -> int | None:
        return (await tenants.limits(tenant)).requests_per_minute

    return find


def loopback(host: str) -> bool:
    """Whether nobody else can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
