"""Wires a gateway from its settings: connections to broker and database, adapters, and the routes of all
families (`ROUTE_MODULES`). Serves until SIGTERM or SIGINT.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import NamedTuple

import structlog
from aiohttp import web

from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.files.file_store import JetStreamFileStore, PostgresFileIndex
from rejoin_adapters.jetstream import nats_connection, setup, write_probe
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.jetstream.process_reports import NatsProcessReports
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.ports.run_counts import RunCounts
from rejoin_adapters.ports.tenants import Tenants
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.artifacts import PostgresArtifacts
from rejoin_adapters.postgres.audit import PostgresAuditLog
from rejoin_adapters.postgres.feedback import PostgresFeedbackStore
from rejoin_adapters.postgres.mcp_sessions import PostgresMcpSessions
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_counts import PostgresRunCounts
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox
from rejoin_adapters.process import metrics_server, tracing
from rejoin_adapters.process.background import run_alongside
from rejoin_adapters.process.overload import return_large_blocks
from rejoin_adapters.process.process_reporter import report_periodically
from rejoin_adapters.process.service_process import on_stop, raise_open_file_limit
from rejoin_adapters.webhook_endpoints import WebhookEndpoints
from rejoin_gateway.agent_cache import CachedAgentRegistry
from rejoin_gateway.api import agent_chat, aisdk, audit, chat_dispatch, files, health, prompts, webhooks
from rejoin_gateway.api.ag_ui import agent_runs
from rejoin_gateway.api.console import (
    approvals,
    model_calls,
    overview,
    run_list,
    run_replay,
    session_list,
    usage_report,
)
from rejoin_gateway.api.mcp import endpoint
from rejoin_gateway.api.openai import completions, responses
from rejoin_gateway.api.parts import parts_chat, threads, tokens
from rejoin_gateway.api.run import artifacts, conversations, executions, run_chat, run_feedback, run_log
from rejoin_gateway.api.sessions import agent_sessions, agents, session_feedback
from rejoin_gateway.auth.authenticator import Authenticator, open_authenticator
from rejoin_gateway.broker_watch import BrokerWatch
from rejoin_gateway.core import remote_fetch
from rejoin_gateway.core.attachments import Attachments
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.core.file_urls import FileUrls
from rejoin_gateway.http.cors import Cors, security_headers
from rejoin_gateway.http.disconnect import finish_changes
from rejoin_gateway.http.gateway_service import SERVICE, DisconnectPolicy, GatewayService
from rejoin_gateway.http.instrumentation import brief_log_of_malformed_requests
from rejoin_gateway.http.middleware import observe
from rejoin_gateway.http.rate_limit import FailedLogins, OpenStreams, TenantRates, per_minute
from rejoin_gateway.http.readiness import Check, Readiness
from rejoin_gateway.http.routes import Route, mount
from rejoin_gateway.images.image_pool import ImagePool
from rejoin_gateway.known_processes import GatewayReporter
from rejoin_gateway.listener.bounded_site import BoundedSite
from rejoin_gateway.listener.connections import (
    ConnectionLimits,
    Connections,
    limit_by_files,
)
from rejoin_gateway.metrics import GatewayMetrics
from rejoin_gateway.settings import GatewaySettings
from rejoin_gateway.ui import docs, kill_switch, pages, root
from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.ids import AgentName, TenantId
from rejoin_protocol.limits import BODY_BYTES_MAX, RECEIVED_BYTES_MAX
from rejoin_protocol.security.sealing import Sealer, parse_keys

log = structlog.get_logger("rejoin.gateway")


ROUTE_MODULES = (
    agent_chat,
    chat_dispatch,
    aisdk,
    prompts,
    agent_sessions,
    run_chat,
    executions,
    conversations,
    run_log,
    run_feedback,
    session_feedback,
    agents,
    artifacts,
    files,
    parts_chat,
    threads,
    tokens,
    endpoint,
    root,
    pages,
    completions,
    responses,
    agent_runs,
    audit,
    webhooks,
    run_list,
    run_replay,
    model_calls,
    usage_report,
    approvals,
    overview,
    session_list,
    docs,
    health,
)
"""The modules with routes. A route family (`rejoin_gateway.api`) has one or several of them."""
ROUTES: tuple[Route, ...] = tuple(route for module in ROUTE_MODULES for route in module.ROUTES)
KEY_USAGE_INTERVAL_S = 10.0
RUN_COUNT_INTERVAL_S = 10.0
WRITE_CHECK_PERIOD_S = 5.0
"""A database that has stored a row is not asked to store another one for this long."""


def build_application(
    service: GatewayService, checks: Mapping[str, Check], *, metrics: bool = True
) -> web.Application:
    """An application with all routes. `metrics`: whether `/metrics` is one of them."""
    app = web.Application(middlewares=[finish_changes, observe], client_max_size=BODY_BYTES_MAX)
    app[SERVICE] = service
    app[health.READINESS] = Readiness(checks)
    app[health.SERVES_METRICS] = metrics
    app[docs.API_DESCRIPTION] = docs.ApiDescription(ROUTES)
    mount(app, ROUTES)
    app.on_response_prepare.append(security_headers(service.cors))
    return app


@asynccontextmanager
async def open_application(settings: GatewaySettings) -> AsyncIterator[web.Application]:
    """The application with its connections, until the context ends.

    Raises `Unavailable` if broker or database cannot be reached, `Invalid` for wrong settings or missing
    migrations.
    """
    async with AsyncExitStack() as stack:
        connections = await _connect(settings.broker(settings.nats_url), stack)
        remote = await stack.enter_async_context(remote_fetch.open_fetcher())
        images = await stack.enter_async_context(ImagePool())
        await setup.require_streams(connections.api)
        await migrate.check_schema(settings.database_url)
        store = await stack.enter_async_context(
            await run_store.open_run_store(
                settings.database_url, pool_max=settings.database_pool_max, limits=settings.limits
            )
        )
        backend = _build_backend(
            settings, connections, store, Attachments(_file_store(connections, store), remote, images)
        )
        authenticator = await stack.enter_async_context(
            open_authenticator(settings, PostgresApiKeys(store.database))
        )
        await _warn_without_context_keys(backend)
        service = _build_service(settings, backend, authenticator, store.database)
        checks = _checks(store.database, connections, backend.broker)
        app = build_application(service, checks, metrics=settings.metrics_port is None)
        app[endpoint.ENDPOINT] = await stack.enter_async_context(
            endpoint.open_endpoint(PostgresMcpSessions(store.database))
        )
        await stack.enter_async_context(service.changes)  # left, and awaited, before all that changes need
        reports = NatsProcessReports(connections.api)
        await stack.enter_async_context(reports.listen(service.processes.hear))
        streams, metrics = service.streams, backend.metrics
        reporter = GatewayReporter(metrics, time.time_ns() // 1_000_000, lambda: len(streams))
        async with run_alongside(
            report_periodically(reports, reporter.describe),
            _record_key_usage(authenticator),
            backend.broker.watch(),
            metrics.watch_loop(),
            _count_runs(metrics, service.run_counts),
        ):
            yield app


class BrokerConnections(NamedTuple):
    """Separate connections, so that the bytes of files delay no live events, and live events no requests."""

    api: NatsConnection
    live: NatsConnection
    files: NatsConnection


async def _connect(broker: BrokerUrl, stack: AsyncExitStack) -> BrokerConnections:
    names = ("gateway-api", "gateway-live", "gateway-files")
    return BrokerConnections(
        *[await stack.enter_async_context(nats_connection.connect(broker, name)) for name in names]
    )


def _build_backend(
    settings: GatewaySettings,
    connections: BrokerConnections,
    store: run_store.PostgresRunStore,
    attachments: Attachments,
) -> Backend:
    metrics, keys = GatewayMetrics(), settings.context_encryption_keys
    streams = setup.StreamSettings(settings.nats_replicas, settings.run_log_retention_s)
    return Backend(
        store,
        JetStreamRunLog(connections.live, connections.api, metrics.observe_live_lag),
        JetStreamRunQueue(connections.api, streams),
        NatsRunControl(connections.api),
        CachedAgentRegistry(JetStreamAgentRegistry(connections.api), settings.agent_cache_ttl_s),
        PostgresSessionStore(store.database),
        PostgresArtifacts(store.database),
        PostgresFeedbackStore(store.database),
        _now,
        secrets.token_bytes,
        attachments,
        FileUrls(
            [*parse_keys(keys).values()] if keys else [],
            _now,
            public_url=settings.public_url,
            ttl_s=settings.file_url_ttl_s,
        ),
        Sealer(keys, secrets.token_bytes) if keys else None,
        metrics,
        settings.stream_heartbeat_s,
        BrokerWatch(
            lambda: write_probe.probe_writes(connections.api, secrets.token_hex(8)),
            tuple(range(settings.log_shards)),
        ),
    )


def _file_store(connections: BrokerConnections, store: run_store.PostgresRunStore) -> JetStreamFileStore:
    return JetStreamFileStore(JetStreamChunkStore(connections.files), PostgresFileIndex(store.database))


def _now() -> datetime:
    return datetime.now(UTC)


def _build_service(
    settings: GatewaySettings, backend: Backend, authenticator: Authenticator, database: Database
) -> GatewayService:
    return GatewayService(
        audit=PostgresAuditLog(database),
        webhooks=lambda tenant: WebhookEndpoints(
            PostgresWebhookOutbox(database), tenant, backend.sealer, backend.random_bytes
        ),
        run_counts=PostgresRunCounts(database),
        backend=backend,
        authenticator=authenticator,
        default_agent=AgentName(settings.default_agent) if settings.default_agent else None,
        openai_strict=settings.openai_strict,
        disconnect_policy=DisconnectPolicy(
            settings.agent_chat_timeout_s, settings.agent_chat_cancel_on_disconnect
        ),
        cors=Cors(frozenset(settings.cors_origins.split())),
        rate=per_minute(settings.requests_per_minute),
        user_rate=per_minute(settings.user_requests_per_minute),
        failed_logins=FailedLogins(per_minute(settings.login_failures_per_minute)),
        open_streams=OpenStreams(settings.tenant_streams_max, settings.user_streams_max),
        tenant_rates=TenantRates(
            per_minute(settings.tenant_requests_per_minute), _rate_of(PostgresTenants(database))
        ),
    )


async def serve(
    settings: GatewaySettings, on_ready: Callable[[], None], kill: kill_switch.Kill | None = None
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `kill`: kills the runners of `rejoin dev`, for its kill
    switch.

    Raises `Invalid` for anonymous access on an address that other machines can reach, and as
    `open_application`.
    """
    if settings.allow_anonymous and not is_loopback(settings.host):
        raise Invalid(
            f"REJOIN_ALLOW_ANONYMOUS needs a loopback address, not {settings.host}: other machines could "
            "call this gateway without a credential"
        )
    async with AsyncExitStack() as stack:
        stack.enter_context(
            tracing.export_telemetry("rejoin-gateway", tracing.TelemetryOptions(settings.otlp_endpoint))
        )
        stack.enter_context(brief_log_of_malformed_requests())
        app = await stack.enter_async_context(open_application(settings))
        registry = app[SERVICE].backend.metrics.registry
        stack.enter_context(
            metrics_server.serve_metrics(registry, settings.metrics_host, settings.metrics_port)
        )
        if kill is not None and is_loopback(settings.host):
            kill_switch.mount_kill_switch(app, kill)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=1.0,
            auto_decompress=False,
            read_bufsize=RECEIVED_BYTES_MAX,
        )
        await runner.setup()
        stop, limits = asyncio.Event(), _connection_limits(settings)
        site = BoundedSite(runner, settings.host, settings.port, Connections(limits))
        try:
            with on_stop(stop.set):
                await site.start()
                async with run_alongside(site.accept()):
                    log.info(
                        "listening", host=settings.host, port=settings.port, connections_max=limits.count_max
                    )
                    on_ready()
                    await stop.wait()
                    await _drain(app[SERVICE], settings.shutdown_delay_s)
        finally:
            await runner.cleanup()
    log.info("stopped")


def _connection_limits(settings: GatewaySettings) -> ConnectionLimits:
    return_large_blocks()
    count_max = limit_by_files(settings.connections_max, raise_open_file_limit())
    return ConnectionLimits(count_max, settings.connections_per_peer_max)


async def _drain(service: GatewayService, delay_s: float) -> None:
    """Fail readiness, wait until load balancers have noticed, then break the streams."""
    service.stopping.set()
    service.backend.metrics.draining()
    log.info("draining", streams=len(service.streams))
    await asyncio.sleep(delay_s)
    service.stop()


def _checks(database: Database, connections: BrokerConnections, broker: BrokerWatch) -> dict[str, Check]:
    """The readiness checks: everything that a chat needs."""

    async def database_is_migrated() -> None:
        if missing := await migrate.find_missing(database):
            raise Unavailable(f"the database lacks migrations {', '.join(missing)}: run `rejoin migrate`")

    async def streams_are_there() -> None:
        if missing := await setup.find_missing_streams(connections.api):
            raise Unavailable(f"the broker lacks the streams {', '.join(missing)}: run `rejoin migrate`")

    async def log_answers() -> None:
        if not all(connection.connected for connection in (connections.live, connections.files)):
            raise Unavailable("a connection to the broker is lost")
        await setup.check_log_readable(connections.api)

    written_at_s = -WRITE_CHECK_PERIOD_S

    async def database_stores_rows() -> None:
        nonlocal written_at_s
        if time.monotonic() - written_at_s < WRITE_CHECK_PERIOD_S:
            return
        await migrate.check_writes(database)
        written_at_s = time.monotonic()

    return {
        "database": database_is_migrated,
        "database writes": database_stores_rows,
        "streams": streams_are_there,
        "broker": log_answers,
        "broker writes": broker.check,
    }


async def _warn_without_context_keys(backend: Backend) -> None:
    """Agents that are announced later are named in the log when a request to them gets a 503."""
    if backend.sealer is not None:
        return
    with suppress(Unavailable):  # readiness reports it
        agents = [entry.name for entry in await backend.agents.list() if entry.context_schema is not None]
        if agents:
            log.warning("context_keys_missing", agents=agents, hint="set REJOIN_CONTEXT_ENCRYPTION_KEYS")


async def _count_runs(metrics: GatewayMetrics, counts: RunCounts) -> None:
    while True:
        await asyncio.sleep(RUN_COUNT_INTERVAL_S)
        with suppress(Unavailable):  # readiness reports it
            metrics.set_active_runs(await counts.count_busy())


async def _record_key_usage(authenticator: Authenticator) -> None:
    while True:
        await asyncio.sleep(KEY_USAGE_INTERVAL_S)
        try:
            await authenticator.record_key_usage()
        except Unavailable as fault:
            log.warning("api_key_usage_not_recorded", error=str(fault))


def _rate_of(tenants: Tenants) -> Callable[[TenantId], Awaitable[int | None]]:
    async def find(tenant: TenantId) -> int | None:
        return (await tenants.get_limits(tenant)).requests_per_minute

    return find


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to the address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
