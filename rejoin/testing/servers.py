"""The same chat on real servers: a runner in this process serves the agent on the servers of `rejoin dev`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from rejoin.dev.config_file import SharedSettings
from rejoin_adapters.process.background import run_alongside
from rejoin_gateway.embed import Rejoin, connect
from rejoin_gateway.settings import GatewaySettings
from rejoin_protocol.errors import Invalid
from rejoin_runner import app as runner_app
from rejoin_runner.agent.agent import Agent
from rejoin_runner.settings import RunnerSettings
from rejoin_runner.worker.worker import Worker


class RealRejoin(msgspec.Struct, frozen=True):
    """A connected backend, and the worker that serves the agent."""

    rejoin: Rejoin
    worker: Worker


@asynccontextmanager
async def open_on_servers(agent: Agent, config_file: Path) -> AsyncIterator[RealRejoin]:
    """Serve the agent on the servers of a configuration file, for example `.rejoin/rejoin.toml`.

    The runner in this process calls the agent's models. Raises `Invalid` if the file cannot be read, or if a
    model cannot be opened.
    """
    shared = _load(config_file)
    gateway_settings = GatewaySettings(
        nats_url=shared.nats_url,
        database_url=shared.database_url,
        context_encryption_keys=shared.context_encryption_keys,
        agent_cache_ttl_s=0,
    )
    settings = RunnerSettings(
        nats_url=shared.nats_url,
        database_url=shared.database_url,
        context_encryption_keys=shared.context_encryption_keys,
        drain_grace_s=0.1,
    )
    async with AsyncExitStack() as stack:
        rejoin = await stack.enter_async_context(connect(gateway_settings))
        worker = await stack.enter_async_context(runner_app.open_worker(settings, [agent]))
        ready = asyncio.Event()
        await stack.enter_async_context(run_alongside(worker.serve(ready.set)))
        await ready.wait()
        yield RealRejoin(rejoin, worker)


def _load(config_file: Path) -> SharedSettings:
    try:
        return msgspec.toml.decode(config_file.read_bytes(), type=SharedSettings)
    except (OSError, msgspec.MsgspecError) as fault:
        raise Invalid(f"{config_file} is no configuration of `rejoin dev`: {fault}") from fault
