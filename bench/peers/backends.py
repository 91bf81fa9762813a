"""Starts the peers, each as a `Backend` whose answers come from `bench.provider`."""

import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import click

from bench.figures import Figure
from bench.peers.installation import HERE, NotInstalled, find, install_ai_sdk, install_pydantic_ai
from bench.servers import Backend, Running, free_port, run_process, run_provider, wait_until_ready

type Measure = Callable[[Backend], AsyncIterator[Figure]]


async def figures(measure: Measure) -> AsyncIterator[Figure]:
    """The figures of each peer that can run here; a line on stderr names the others."""
    async with run_provider() as provider:
        for name, run_peer in PEERS.items():
            try:
                async with run_peer(provider) as backend:
                    async for figure in measure(backend):
                        yield figure
            except NotInstalled as reason:
                click.echo(f"{name} is not measured: {reason}", err=True)


@asynccontextmanager
async def run_ai_sdk(provider: Running) -> AsyncIterator[Backend]:
    """The AI SDK's server, and its Redis. Raises `NotInstalled`."""
    node, module = find("node"), await install_ai_sdk()
    started_s = time.monotonic()
    async with _run_redis() as redis:
        run_server = partial(_run_server, node, str(module), f"{provider.base}/v1", redis.base)
        async with run_server() as server:
            pids = {"node": server.pid, "redis": redis.pid}
            yield Backend("ai-sdk", server.base, pids, "node", run_server, "replay", started_s)


@asynccontextmanager
async def run_pydantic_ai(provider: Running) -> AsyncIterator[Backend]:
    """pydantic-ai's server. Raises `NotInstalled`."""
    python = await install_pydantic_ai()
    started_s = time.monotonic()
    script = str(HERE / "pydantic_ai_server.py")
    run_server = partial(_run_server, str(python), script, f"{provider.base}/v1")
    async with run_server() as server:
        pids = {"uvicorn": server.pid}
        yield Backend("pydantic-ai", server.base, pids, "uvicorn", run_server, None, started_s)


PEERS: dict[str, Callable[[Running], AbstractAsyncContextManager[Backend]]] = {
    "ai-sdk": run_ai_sdk,
    "pydantic-ai": run_pydantic_ai,
}


@asynccontextmanager
async def _run_server(program: str, script: str, *arguments: str) -> AsyncIterator[Running]:
    """A script whose first argument is its port."""
    port = free_port()
    async with run_process(program, script, str(port), *arguments) as child:
        base = f"http://127.0.0.1:{port}"
        await wait_until_ready(base, child)
        yield Running(base, child.pid)


@asynccontextmanager
async def _run_redis() -> AsyncIterator[Running]:
    """Redis that stores nothing on disk. `base` is its URL."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="rejoin-bench-") as directory:
        options = ("--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", "")
        async with run_process(find("redis-server"), *options, "--loglevel", "warning") as child:
            yield Running(f"redis://127.0.0.1:{port}", child.pid)
