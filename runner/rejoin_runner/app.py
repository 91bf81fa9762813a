"""Wires a runner: settings, connections, agents and their models, the worker."""

import asyncio
import importlib
import os
import secrets
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.files.file_index import JetStreamFileStore, PostgresFileIndex
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_adapters.jetstream.run_control import NatsRunControl
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.postgres import migrate, run_store
from rejoin_adapters.postgres.artifacts import PostgresArtifacts
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.records import Limits
from rejoin_adapters.service import metrics_server, tracing
from rejoin_adapters.service.background import run_alongside
from rejoin_adapters.service.service_process import on_stop, raise_open_file_limit
from rejoin_protocol.errors import Invalid
from rejoin_protocol.security.sealing import Sealer

from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import collect_agents
from rejoin_runner.mcp.toolbox import ServerToolsLookup
from rejoin_runner.models.model import Model, ModelKeyLookup
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from rejoin_runner.run import tool_calls
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.tools import thread_calls
from rejoin_runner.worker import loop_watchdog
from rejoin_runner.worker.configuration import ServedAgent, WorkerLimits, WorkerPorts, WorkerSignals
from rejoin_runner.worker.worker import Worker

OVERDUE_S = 5.0
"""How long what was cancelled may take to end, once a drain's grace is over."""
log = structlog.get_logger("rejoin.runner")


@asynccontextmanager
async def open_worker(
    settings: RunnerSettings,
    agents: Sequence[Agent],
    signals: WorkerSignals = WorkerSignals(),  # noqa: B008 - it is frozen
) -> AsyncIterator[Worker]:
    """A worker with its connections, for as long as the context."""
    async with AsyncExitStack() as stack:
        connections = await stack.enter_async_context(ProviderConnections())
        sources = await stack.enter_async_context(_servers(agents))
        serving = [_serving(agent, settings, connections, sources) for agent in agents]
        queue = await stack.enter_async_context(nats_connection.connect(settings.nats_url, "runner-queue"))
        write = await stack.enter_async_context(nats_connection.connect(settings.nats_url, "runner-log"))
        files = await stack.enter_async_context(nats_connection.connect(settings.nats_url, "runner-files"))
        wanted = setup.StreamSettings(
            settings.nats_replicas, settings.run_log_retention_s, settings.ack_wait_s
        )
        await setup.require_streams(queue)
        await migrate.check_schema(settings.database_url)
        store = await stack.enter_async_context(
            await run_store.open_run_store(
                settings.database_url,
                pool_max=settings.database_pool_max,
                limits=Limits(
                    running_max=settings.tenant_running_max, file_bytes_max=settings.tenant_file_bytes_max
                ),
            )
        )
        yield Worker(
            f"{socket.gethostname()}-{os.getpid()}",
            serving,
            WorkerPorts(
                store=store,
                run_log=JetStreamRunLog(write, write),
                queue=JetStreamRunQueue(queue, wanted),
                control=NatsRunControl(queue),
                registry=JetStreamAgentRegistry(queue),
                files=JetStreamFileStore(JetStreamChunkStore(files), PostgresFileIndex(store.database)),
                artifacts=PostgresArtifacts(store.database),
                sessions=PostgresSessionStore(store.database),
                sealer=Sealer(settings.context_encryption_keys, secrets.token_bytes)
                if settings.context_encryption_keys
                else None,
            ),
            WorkerLimits(
                max_concurrent_runs=settings.max_concurrent_runs,
                ack_wait_s=settings.ack_wait_s,
                drain_grace_s=settings.drain_grace_s,
                retry_delay_s=settings.retry_delay_s,
                attempts_max=settings.attempts_max,
                sweep_interval_s=settings.sweep_interval_s,
                session_retention_s=settings.session_retention_s,
            ),
            deployed_at_ms=_now_ms() if settings.deployed_at_ms is None else settings.deployed_at_ms,
            signals=signals,
            now_ms=_now_ms,
        )


async def serve(settings: RunnerSettings, agents: Sequence[Agent], on_ready: Callable[[], None]) -> None:
    """Until SIGTERM or SIGINT, and then until the running runs are over or handed over; no longer, whatever a
    tool does.
    """
    raise_open_file_limit()
    with tracing.export_spans("rejoin-runner", settings.otlp_endpoint):
        async with open_worker(settings, agents) as worker:
            registry = worker.metrics.registry

            def stop() -> None:
                worker.drain()
                asyncio.get_running_loop().call_later(settings.drain_grace_s + OVERDUE_S, _give_up)

            with (
                metrics_server.serve_metrics(registry, settings.metrics_host, settings.metrics_port),
                on_stop(stop),
            ):
                async with run_alongside(loop_watchdog.watch()):
                    await worker.serve(on_ready)
    if left := thread_calls.calls_in_progress():
        log.warning("threads_abandoned_at_exit", tools=left)


def _give_up() -> None:
    """Something does not end although it was cancelled, and its run is kept alive: without us it is not."""
    tools = [
        task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(tool_calls.TASK_PREFIX)
    ]
    log.error("drain_overdue", tools=[name.removeprefix(tool_calls.TASK_PREFIX) for name in tools])
    sys.stderr.flush()
    os._exit(1)


@asynccontextmanager
async def _servers(heads: Sequence[Agent]) -> AsyncIterator[ServerToolsLookup | None]:
    """The way to the agents' MCP servers. The SDK, which takes seconds, is imported if there are some."""
    wanted = [server for head in heads for agent in collect_agents(head).values() for server in agent.mcp]
    if not wanted:
        yield None
        return
    async with importlib.import_module("rejoin_runner.mcp.connection").open_connections(wanted) as sources:
        yield sources


def _serving(
    agent: Agent,
    settings: RunnerSettings,
    connections: ProviderConnections,
    sources: ServerToolsLookup | None,
) -> ServedAgent:
    """The agent and those that it reaches, ready. Raises `Invalid` for a crew that cannot work."""
    keys = agent.model_keys
    models = {name: _open(one, settings, connections, keys) for name, one in collect_agents(agent).items()}
    updates = agent.status_updates
    writer = None if updates is None or updates.model is None else updates.model
    return ServedAgent(
        agent,
        models[agent.name],
        models,
        None if writer is None else _model(writer, settings, connections, keys),
        {}
        if sources is None
        else {name: [*map(sources, one.mcp)] for name, one in collect_agents(agent).items()},
    )


def _open(
    agent: Agent, settings: RunnerSettings, connections: ProviderConnections, keys: ModelKeyLookup | None
) -> Model:
    """The agent's model, imported and ready. Raises `Invalid` for one that cannot be."""
    try:
        return _model(agent.model, settings, connections, agent.model_keys or keys)
    except Invalid as fault:
        raise Invalid(f"agent {agent.name}: {fault}") from fault


def _model(
    model: Model | str,
    settings: RunnerSettings,
    connections: ProviderConnections,
    keys: ModelKeyLookup | None,
) -> Model:
    if not isinstance(model, str):
        return model
    return open_model(
        model, connections, base_url=settings.model_base_url, api_key=settings.model_api_key, keys=keys
    )


def _now_ms() -> int:
    return int(time.time() * 1000)
