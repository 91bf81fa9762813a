"""Wires a gateway: settings, connections, routes; serves until it is asked to stop."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address

import structlog
from aiohttp import web
from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.files.file_index import JetStreamFileStore, PostgresFileIndex
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import AGENT_CACHE_TTL_S, JetStreamAgentRegistry
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.ports.run_counts import RunCounts
from rejoin_adapters.ports.tenants import Tenants
from rejoin_adapters.postgres import migrate, run_store
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.artifacts import PostgresArtifacts
from rejoin_adapters.postgres.mcp_sessions import PostgresMcpSessions
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.postgres.run_counts import PostgresRunCounts
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.records import Count, Limits
from rejoin_adapters.service import metrics_server, tracing
from rejoin_adapters.service.background import run_alongside
from rejoin_adapters.service.service_process import LogFormat, on_stop, raise_open_file_limit
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import AgentName, TenantId
from rejoin_protocol.security.sealing import Sealer

from rejoin_gateway.api import agent_chat, agent_sessions, agents, aisdk, chat_dispatch, files, health
from rejoin_gateway.api.mcp import endpoint
from rejoin_gateway.api.openai import completions, responses
from rejoin_gateway.api.parts import parts_chat, threads
from rejoin_gateway.api.run import artifacts, conversations, executions, run_chat, run_log
from rejoin_gateway.auth.authenticator import Authenticator, AuthSettings, open_authenticator
from rejoin_gateway.core import remote_fetch
from rejoin_gateway.core.attachments import Attachments
from rejoin_gateway.core.session import Backend
from rejoin_gateway.http.cors import Cors, security_headers
from rejoin_gateway.http.middleware import observe
from rejoin_gateway.http.rate_limit import TenantRates, per_minute
from rejoin_gateway.http.readiness import Check, Readiness
from rejoin_gateway.http.request_body import BODY_BYTES_MAX
from rejoin_gateway.http.routes import Route, mount
from rejoin_gateway.http.service import SERVICE, DisconnectPolicy, GatewayService
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_gateway.ui import docs, kill_switch, pages

log = structlog.get_logger("rejoin.gateway")


FAMILIES = (
    agent_chat,
    chat_dispatch,
    aisdk,
    agent_sessions,
    run_chat,
    executions,
    conversations,
    run_log,
    agents,
    artifacts,
    files,
    parts_chat,
    threads,
    endpoint,
    pages,
    completions,
    responses,
    docs,
    health,
)
ROUTES: tuple[Route, ...] = tuple(route for family in FAMILIES for route in family.ROUTES)
KEY_USAGE_INTERVAL_S = 10.0
RUN_COUNT_INTERVAL_S = 10.0


class GatewaySettings(AuthSettings, frozen=True, kw_only=True):
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
    agent_cache_ttl_s: float = AGENT_CACHE_TTL_S
    """How long an agent's entry is believed without asking the broker again."""
    nats_replicas: int = 1
    """How many servers keep each stream: 3 in a cluster."""
    run_log_retention_s: float = 24 * 3600
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
    agent_chat_timeout_s: float | None = 120.0
    """How long a run of the agent-chat family's stream may take."""
    agent_chat_cancel_on_disconnect: bool = True
    """Whether it stops when its client leaves, unlike everybody else's."""
    cors_origins: str = ""
    """Origins whose pages may call, separated by spaces; `*` for all of them."""
    context_encryption_keys: str | None = None
    """What contexts are sealed with, `id:base64,…` of 32 bytes: the first seals, all open."""
    shutdown_delay_s: float = 0.0
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


def build_application(
    service: GatewayService, checks: Mapping[str, Check], *, metrics: bool = True
) -> web.Application:
    """The routes over a backend."""
    app = web.Application(middlewares=[observe], client_max_size=BODY_BYTES_MAX)
    app[SERVICE] = service
    app[health.READINESS] = Readiness(checks)
    app[health.SERVES_METRICS] = metrics
    app[docs.CONTRACT] = docs.lazy_contract(ROUTES)
    mount(app, ROUTES)
    app.on_response_prepare.append(security_headers(service.cors))
    return app


@asynccontextmanager
async def open_application(settings: GatewaySettings) -> AsyncIterator[web.Application]:
    """An application with its connections, for as long as the context."""
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(nats_connection.connect(settings.nats_url, "gateway-api"))
        live = await stack.enter_async_context(nats_connection.connect(settings.nats_url, "gateway-live"))
        stored = await stack.enter_async_context(nats_connection.connect(settings.nats_url, "gateway-files"))
        remote = await stack.enter_async_context(remote_fetch.open_fetcher())
        wanted = setup.StreamSettings(settings.nats_replicas, settings.run_log_retention_s)
        await setup.require_streams(api)
        await migrate.check_schema(settings.database_url)
        store = await stack.enter_async_context(
            await run_store.open_run_store(
                settings.database_url, pool_max=settings.database_pool_max, limits=_limits(settings)
            )
        )
        metrics = GatewayMetrics()
        backend = Backend(
            store,
            JetStreamRunLog(live, api, metrics.observe_live_lag),
            JetStreamRunQueue(api, wanted),
            NatsRunControl(api),
            JetStreamAgentRegistry(api, settings.agent_cache_ttl_s),
            PostgresSessionStore(store.database),
            PostgresArtifacts(store.database),
            lambda: datetime.now(UTC),
            secrets.token_bytes,
            Attachments(
                JetStreamFileStore(JetStreamChunkStore(stored), PostgresFileIndex(store.database)), remote
            ),
            Sealer(settings.context_encryption_keys, secrets.token_bytes)
            if settings.context_encryption_keys
            else None,
            metrics,
        )
        authenticator = await stack.enter_async_context(
            open_authenticator(settings, PostgresApiKeys(store.database))
        )
        service = GatewayService(
            backend=backend,
            authenticator=authenticator,
            default_agent=AgentName(settings.default_agent) if settings.default_agent else None,
            disconnect_policy=DisconnectPolicy(
                settings.agent_chat_timeout_s, settings.agent_chat_cancel_on_disconnect
            ),
            cors=Cors(frozenset(settings.cors_origins.split())),
            rate=per_minute(settings.requests_per_minute),
            tenant_rates=TenantRates(
                per_minute(settings.tenant_requests_per_minute), _rate_of(PostgresTenants(store.database))
            ),
        )

        counts, checks = PostgresRunCounts(store.database), _checks(store.database, api, (live, stored))
        app = build_application(service, checks, metrics=settings.metrics_port is None)
        app[endpoint.ENDPOINT] = await stack.enter_async_context(
            endpoint.open_endpoint(PostgresMcpSessions(store.database))
        )
        async with run_alongside(
            _record_key_usage(authenticator), metrics.watch_loop(), _count_runs(metrics, counts)
        ):
            yield app


async def serve(
    settings: GatewaySettings, on_ready: Callable[[], None], kill: kill_switch.Kill | None = None
) -> None:
    """Until SIGTERM or SIGINT. `kill`: what the page may do to the runners of `rejoin dev`.

    Raises `Invalid` for settings that would let anybody in from anywhere.
    """
    if settings.allow_anonymous and not is_loopback(settings.host):
        raise Invalid(f"without credentials only loopback is served, not {settings.host}")
    async with AsyncExitStack() as stack:
        stack.enter_context(tracing.export_spans("rejoin-gateway", settings.otlp_endpoint))
        app = await stack.enter_async_context(open_application(settings))
        registry = app[SERVICE].backend.metrics.registry
        stack.enter_context(
            metrics_server.serve_metrics(registry, settings.metrics_host, settings.metrics_port)
        )
        if kill is not None and is_loopback(settings.host):
            kill_switch.mount_kill_switch(app, kill)
        runner = web.AppRunner(
            app, handle_signals=False, handler_cancellation=True, access_log=None, shutdown_timeout=1.0
        )
        await runner.setup()
        stop, files_max = asyncio.Event(), raise_open_file_limit()
        try:
            with on_stop(stop.set):
                await web.TCPSite(runner, settings.host, settings.port, reuse_address=True).start()
                log.info("listening", host=settings.host, port=settings.port, files_max=files_max)
                on_ready()
                await stop.wait()
            await _drain(app[SERVICE], settings.shutdown_delay_s)
        finally:
            await runner.cleanup()
    log.info("stopped")


async def _drain(service: GatewayService, notice_s: float) -> None:
    """Fail readiness, and break the streams once that has been noticed."""
    service.stopping.set()
    service.backend.metrics.draining()
    log.info("draining", streams=len(service.streams))
    await asyncio.sleep(notice_s)
    service.stop()


def _checks(
    database: Database, api: nats_connection.NatsConnection, others: Sequence[nats_connection.NatsConnection]
) -> dict[str, Check]:
    """What a chat needs."""

    async def database_is_migrated() -> None:
        if lacking := await migrate.find_missing(database):
            raise Unavailable(f"the database misses migrations {', '.join(lacking)}")

    async def streams_are_there() -> None:
        if lacking := await setup.find_missing_streams(api):
            raise Unavailable(f"the broker misses the streams {', '.join(lacking)}")

    async def log_answers() -> None:
        if not all(connection.connected for connection in others):
            raise Unavailable("the broker is away")
        await setup.check_log_readable(api)

    return {"database": database_is_migrated, "streams": streams_are_there, "broker": log_answers}


async def _count_runs(metrics: GatewayMetrics, counts: RunCounts) -> None:
    while True:
        await asyncio.sleep(RUN_COUNT_INTERVAL_S)
        with suppress(Unavailable):  # readiness says so
            metrics.set_active_runs(await counts.count_busy())


async def _record_key_usage(authenticator: Authenticator) -> None:
    while True:
        await asyncio.sleep(KEY_USAGE_INTERVAL_S)
        try:
            await authenticator.record_key_usage()
        except Unavailable as fault:
            log.warning("api_key_usage_not_recorded", error=str(fault))


def _limits(settings: GatewaySettings) -> Limits:
    return Limits(
        running_max=settings.tenant_running_max,
        queued_max=settings.tenant_queued_max,
        tokens_per_day=settings.tenant_tokens_per_day,
        file_bytes_max=settings.tenant_file_bytes_max,
    )


def _rate_of(tenants: Tenants) -> Callable[[TenantId], Awaitable[int | None]]:
    async def find(tenant: TenantId) -> int | None:
        return (await tenants.get_limits(tenant)).requests_per_minute

    return find


def is_loopback(host: str) -> bool:
    """Whether nobody else can reach what listens there."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
