"""Wires a runner: settings, connections, agents and their models, the worker."""

import asyncio
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import SystemRandom

import structlog

from rejoin_adapters.extras import is_installed, needs_extra
from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.files.file_store import JetStreamFileStore, PostgresFileIndex
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.jetstream.process_reports import NatsProcessReports
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.artifacts import PostgresArtifacts
from rejoin_adapters.postgres.audit import PostgresAuditLog
from rejoin_adapters.postgres.pool import Database
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_counts import PostgresRunCounts
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox
from rejoin_adapters.process import metrics_server, tracing
from rejoin_adapters.process.guarded_http import is_fetchable, open_guarded_client
from rejoin_adapters.process.overload import return_large_blocks
from rejoin_adapters.process.process_reporter import process_name
from rejoin_adapters.process.service_process import on_stop, raise_open_file_limit
from rejoin_protocol.errors import Invalid
from rejoin_protocol.security.sealing import Sealer
from rejoin_runner import application_code
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import collect_agents
from rejoin_runner.mcp.toolbox import ServerToolsLookup
from rejoin_runner.models.model import Model, ModelKeyLookup
from rejoin_runner.models.prices import Prices, parse_prices
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.models.providers.request_rules import check_tools
from rejoin_runner.run import tool_calls
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.run.model_calls import CallRecorder
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.tools import thread_calls
from rejoin_runner.worker.configuration import (
    ReportLoss,
    ServedAgent,
    WorkerLimits,
    WorkerPorts,
    WorkerSignals,
)
from rejoin_runner.worker.probes import open_probe_socket
from rejoin_runner.worker.quarantine import BEGUN, Quarantine, RunnerLink
from rejoin_runner.worker.webhook_sender import HEADERS, SENDS_MAX, WebhookLimits, WebhookSender
from rejoin_runner.worker.worker import Worker

OVERDUE_S = 5.0
"""Seconds that cancelled runs may take to end after `drain_grace_s`; then the process exits."""
log = structlog.get_logger("rejoin.runner")


@asynccontextmanager
async def open_worker(
    settings: RunnerSettings,
    agents: Sequence[Agent],
    signals: WorkerSignals = WorkerSignals(),  # noqa: B008 - it is frozen
    *,
    quarantine: Quarantine | None = None,
    is_alone: bool = False,
    probes: socket.socket | None = None,
) -> AsyncIterator[Worker]:
    """A worker with its connections, which are closed at the end of the context.

    Raises `Invalid` if an agent or its model cannot be served.
    """
    async with AsyncExitStack() as stack:
        connections = await stack.enter_async_context(ProviderConnections())
        mcp_tools = await stack.enter_async_context(_connect_mcp_servers(agents))
        prices = await _open_prices(settings, agents)
        served = [_prepare_agent(agent, settings, connections, mcp_tools) for agent in agents]
        broker = settings.broker(settings.nats_url)
        queue, write, files = [
            await stack.enter_async_context(nats_connection.connect(broker, f"runner-{purpose}"))
            for purpose in ("queue", "log", "files")
        ]
        await setup.require_streams(queue)
        await migrate.check_schema(settings.database_url)
        store = await stack.enter_async_context(await _open_store(settings))
        sealer, metrics = _build_sealer(settings), RunnerMetrics()
        sender = await stack.enter_async_context(_open_sender(settings, store.database, sealer, metrics))
        run_log = JetStreamRunLog(write, write)
        yield Worker(
            process_name(),
            served,
            WorkerPorts(
                store=store,
                run_log=run_log,
                recorder=_open_recorder(settings, run_log, sealer),
                queue=JetStreamRunQueue(queue, _stream_settings(settings)),
                control=NatsRunControl(queue),
                registry=JetStreamAgentRegistry(queue),
                files=JetStreamFileStore(JetStreamChunkStore(files), PostgresFileIndex(store.database)),
                artifacts=PostgresArtifacts(store.database),
                sessions=PostgresSessionStore(store.database),
                open_loss_reporter=partial(_open_loss_reporter, settings.database_url),
                audit=PostgresAuditLog(store.database),
                run_counts=PostgresRunCounts(store.database),
                sealer=sealer,
                prices=prices,
                reports=NatsProcessReports(queue),
                send_webhooks=None if sender is None else sender.run,
            ),
            _worker_limits(settings),
            deployed_at_ms=_now_ms() if settings.deployed_at_ms is None else settings.deployed_at_ms,
            metrics=metrics,
            signals=signals,
            quarantine=quarantine,
            is_alone=is_alone,
            probes=probes,
            now_ms=_now_ms,
        )


async def _open_prices(settings: RunnerSettings, agents: Sequence[Agent]) -> Prices:
    """The prices, loaded if an agent has a model that is known by its name. Raises `Invalid`."""
    prices = Prices(parse_prices(settings.prices))
    if any(isinstance(one.model, str) for head in agents for one in collect_agents(head).values()):
        await prices.load()
    return prices


def _open_recorder(
    settings: RunnerSettings, run_log: JetStreamRunLog, sealer: Sealer | None
) -> CallRecorder | None:
    if not settings.record_model_calls:
        return None
    log.warning("model_calls_recorded", encrypted=bool(settings.context_encryption_keys))
    return CallRecorder(run_log, sealer, settings.recorded_bytes_max, time.monotonic)


def _stream_settings(settings: RunnerSettings) -> setup.StreamSettings:
    return setup.StreamSettings(settings.nats_replicas, settings.run_log_retention_s, settings.ack_wait_s)


async def _open_store(settings: RunnerSettings) -> run_store.PostgresRunStore:
    pool_max = settings.database_pool_max
    return await run_store.open_run_store(settings.database_url, pool_max=pool_max, limits=settings.limits)


def _build_sealer(settings: RunnerSettings) -> Sealer | None:
    keys = settings.context_encryption_keys
    return Sealer(keys, secrets.token_bytes) if keys else None


def _worker_limits(settings: RunnerSettings) -> WorkerLimits:
    return WorkerLimits(
        max_concurrent_runs=settings.max_concurrent_runs,
        ack_wait_s=settings.ack_wait_s,
        loop_blocked_s_max=settings.loop_blocked_max_s,
        drain_grace_s=settings.drain_grace_s,
        retry_delay_s=settings.retry_delay_s,
        attempts_max=settings.attempts_max,
        sweep_interval_s=settings.sweep_interval_s,
        history_bytes_max=settings.history_bytes_max,
        session_retention_s=settings.session_retention_s,
        audit_retention_s=settings.audit_retention_s,
        usage_retention_s=settings.usage_retention_s,
    )


@asynccontextmanager
async def _open_sender(
    settings: RunnerSettings, database: Database, sealer: Sealer | None, metrics: RunnerMetrics
) -> AsyncIterator[WebhookSender | None]:
    """None without the keys that decrypt the secrets of receivers."""
    if sealer is None:
        yield None
        return
    private = settings.webhook_private_addresses, settings.webhook_request_private_addresses
    allowed = [(lambda _address, _port: True) if one else is_fetchable for one in private]
    limits = WebhookLimits(settings.webhook_timeout_s, settings.webhook_retry_s)
    async with (
        open_guarded_client(allowed[0], connections_max=SENDS_MAX, headers=HEADERS) as http,
        open_guarded_client(allowed[1], connections_max=SENDS_MAX, headers=HEADERS) as request_http,
    ):
        yield WebhookSender(
            PostgresWebhookOutbox(database),
            http,
            request_http,
            sealer,
            limits,
            metrics=metrics.webhooks,
            now_ms=_now_ms,
            draw=SystemRandom().random,
        )


@asynccontextmanager
async def _open_loss_reporter(database_url: str) -> AsyncIterator[ReportLoss]:
    async with await run_store.open_run_store(database_url, pool_max=1) as store:
        yield store.report_loss


async def serve_alone(settings: RunnerSettings, agents: Sequence[Agent], runner: RunnerLink) -> None:
    """Execute one delivery after the other in this process until the runner ends. See `quarantine`."""
    asyncio.get_running_loop().set_task_factory(application_code.make_task)
    with tracing.export_telemetry("rejoin-runner", _telemetry(settings)):
        async with open_worker(settings, agents, is_alone=True) as worker, worker.standing_by():
            async for delivery in runner.deliveries():
                with runner.until_its_death() as link:
                    link.say(BEGUN)
                    await worker.execute_alone(delivery)
                runner.answer(delivery)


async def serve(
    settings: RunnerSettings,
    agents: Sequence[Agent],
    on_ready: Callable[[], None],
    quarantine: Quarantine | None = None,
) -> None:
    """Serve the agents until SIGTERM or SIGINT, then until their runs have ended or are handed over.

    After `drain_grace_s` and `OVERDUE_S` the process exits even if a tool does not end.
    """
    raise_open_file_limit()
    return_large_blocks()
    asyncio.get_running_loop().set_task_factory(application_code.make_task)
    with (
        tracing.export_telemetry("rejoin-runner", _telemetry(settings)),
        open_probe_socket(settings.health_host, settings.health_port) as probes,
    ):
        async with open_worker(settings, agents, quarantine=quarantine, probes=probes) as worker:
            registry = worker.metrics.registry

            def stop() -> None:
                worker.drain()
                asyncio.get_running_loop().call_later(settings.drain_grace_s + OVERDUE_S, _exit_now)

            with (
                metrics_server.serve_metrics(registry, settings.metrics_host, settings.metrics_port),
                on_stop(stop),
            ):
                await worker.serve(on_ready)
    if abandoned := thread_calls.calls_in_progress():
        log.warning("threads_abandoned_at_exit", tools=abandoned)


def _telemetry(settings: RunnerSettings) -> tracing.TelemetryOptions:
    return tracing.TelemetryOptions(
        settings.otlp_endpoint, settings.otlp_metrics_endpoint, settings.otlp_users, settings.otlp_content
    )


def _exit_now() -> None:
    """Exit although a cancelled tool goes on: this process keeps the lease of its run until it exits."""
    tools = [
        task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(tool_calls.TASK_PREFIX)
    ]
    log.error("drain_overdue", tools=[name.removeprefix(tool_calls.TASK_PREFIX) for name in tools])
    sys.stderr.flush()
    os._exit(1)


@asynccontextmanager
async def _connect_mcp_servers(heads: Sequence[Agent]) -> AsyncIterator[ServerToolsLookup | None]:
    """The tools of the agents' MCP servers. None if there are no servers: the SDK's import takes seconds.
    Raises `Invalid` if the SDK, an extra, is not installed.
    """
    servers = [server for head in heads for agent in collect_agents(head).values() for server in agent.mcp]
    if not servers:
        yield None
        return
    if not is_installed("mcp"):
        raise Invalid(needs_extra(f"the MCP server {servers[0].name} of an agent", "mcp"))
    from rejoin_runner.mcp.connection import open_connections

    async with open_connections(servers) as find_tools:
        yield find_tools


def _prepare_agent(
    agent: Agent,
    settings: RunnerSettings,
    connections: ProviderConnections,
    mcp_tools: ServerToolsLookup | None,
) -> ServedAgent:
    """The agent with the opened models and the MCP tools of all agents that it reaches. Raises `Invalid`."""
    keys = agent.model_keys
    agents = collect_agents(agent)
    models = {name: _open_model(member, settings, connections, keys) for name, member in agents.items()}
    updates = agent.status_updates
    writer = None if updates is None or updates.model is None else updates.model
    return ServedAgent(
        agent,
        models[agent.name],
        models,
        None if writer is None else _resolve_model(writer, settings, connections, keys),
        {} if mcp_tools is None else {name: [*map(mcp_tools, member.mcp)] for name, member in agents.items()},
    )


def _open_model(
    agent: Agent, settings: RunnerSettings, connections: ProviderConnections, keys: ModelKeyLookup | None
) -> Model:
    """The agent's model. Raises `Invalid` with the agent's name if it cannot be opened, or does not take the
    agent's tools.
    """
    names = [*agent.tools_by_name, *(f"{server.prefix}tool" for server in agent.mcp)]
    try:
        if isinstance(agent.model, str):
            check_tools(agent.model, names, own_address=settings.model_base_url is not None)
        return _resolve_model(agent.model, settings, connections, agent.model_keys or keys)
    except Invalid as fault:
        raise Invalid(f"agent {agent.name}: {fault}") from fault


def _resolve_model(
    model: Model | str,
    settings: RunnerSettings,
    connections: ProviderConnections,
    keys: ModelKeyLookup | None,
) -> Model:
    if not isinstance(model, str):
        return model
    return open_model(
        model,
        connections,
        base_url=settings.model_base_url,
        api_key=settings.model_api_key,
        tenant_key_lookup=keys,
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
