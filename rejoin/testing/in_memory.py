"""A gateway's backend and a runner in this process, on the ports in memory: no server, no port, no file."""

import asyncio
import secrets
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec

from rejoin.testing.crash import CrashingRunLog, CrashPoint
from rejoin.testing.scripted_model import ScriptedModel
from rejoin_adapters.memory.broker.agent_registry import MemoryAgentRegistry
from rejoin_adapters.memory.broker.run_control import MemoryRunControl
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.memory.broker.run_queue import MemoryRunQueue
from rejoin_adapters.memory.clock import CLOCK, MovableClock
from rejoin_adapters.memory.database.artifacts import MemoryArtifacts
from rejoin_adapters.memory.database.feedback import MemoryFeedbackStore
from rejoin_adapters.memory.database.files import MemoryFileStore
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.memory.database.session_store import MemorySessionStore
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.process.background import run_alongside
from rejoin_gateway.core import remote_fetch
from rejoin_gateway.core.attachments import Attachments
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.images.image_pool import ImagePool
from rejoin_protocol.errors import Invalid
from rejoin_protocol.security.sealing import KEY_BYTES, Sealer
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import collect_agents
from rejoin_runner.models.model import Model
from rejoin_runner.worker.configuration import ServedAgent, WorkerLimits, WorkerPorts
from rejoin_runner.worker.worker import Worker


class InMemoryRejoin(msgspec.Struct, frozen=True):
    """What a test needs of a Rejoin in memory: the backend, the worker with its models, its clock and its
    crash point.
    """

    backend: Backend
    models: Sequence[Model]
    worker: Worker
    clock: MovableClock
    crash: CrashPoint


@asynccontextmanager
async def open_in_memory(agent: Agent, models: Mapping[str, Model]) -> AsyncIterator[InMemoryRejoin]:
    """Serve the agent with these models, by agent name, until the context ends.

    An agent that it reaches and that has no model here fails the test when it is called. Raises `Invalid` if
    the agent itself has none.
    """
    clock = MovableClock()
    before = CLOCK.set(clock)
    try:
        database = MemoryDatabase()
        sealer = Sealer(f"test:{b64encode(secrets.token_bytes(KEY_BYTES)).decode()}", secrets.token_bytes)
        ports = WorkerPorts(
            store=MemoryRunStore(database),
            run_log=MemoryRunLog(),
            queue=MemoryRunQueue(),
            control=MemoryRunControl(),
            registry=MemoryAgentRegistry(),
            files=MemoryFileStore(database),
            artifacts=MemoryArtifacts(database),
            sessions=MemorySessionStore(database),
            sealer=sealer,
        )
        async with remote_fetch.open_fetcher() as fetcher, ImagePool() as images:
            backend = Backend(
                ports.store,
                ports.run_log,
                ports.queue,
                ports.control,
                ports.registry,
                MemorySessionStore(database),
                MemoryArtifacts(database),
                MemoryFeedbackStore(database),
                clock.now,
                secrets.token_bytes,
                Attachments(
                    MemoryFileStore(database) if ports.files is None else ports.files, fetcher, images
                ),
                sealer=sealer,
            )
            crash = CrashPoint()
            served = _find_models(agent, models)
            worker = _build_worker(agent, served, ports, clock, crash)
            async with _serving(worker):
                yield InMemoryRejoin(backend, [*served.values()], worker, clock, crash)
    finally:
        CLOCK.reset(before)


def _build_worker(
    agent: Agent, models: Mapping[str, Model], ports: WorkerPorts, clock: MovableClock, crash: CrashPoint
) -> Worker:
    return Worker(
        "test",
        [ServedAgent(agent, models[agent.name], models)],
        msgspec.structs.replace(ports, run_log=CrashingRunLog(ports.run_log, crash)),
        WorkerLimits(drain_grace_s=0, retry_delay_s=0),
        now_ms=lambda: int(clock.now().timestamp() * 1000),
    )


def _find_models(agent: Agent, models: Mapping[str, Model]) -> dict[str, Model]:
    members = collect_agents(agent)
    if unknown := sorted(set(models) - set(members)):
        raise Invalid(f"agent {agent.name} reaches no agent {', '.join(unknown)}")
    found = {name: models.get(name, member.model) for name, member in members.items()}
    if isinstance(found[agent.name], str):
        raise Invalid(f"agent {agent.name} has the model {agent.model}: give the test a `model=…` for it")
    return {
        name: ScriptedModel(name=f"the model of {name}") if isinstance(model, str) else model
        for name, model in found.items()
    }


@asynccontextmanager
async def _serving(worker: Worker) -> AsyncIterator[None]:
    ready = asyncio.Event()
    async with run_alongside(worker.serve(ready.set)):
        await ready.wait()
        yield
