"""The measured processes, each in an async context. They listen on loopback."""

import asyncio
import re
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

import aiohttp
import msgspec

from rejoin.dev.generous_limits import GENEROUS_LIMITS, GENEROUS_RATES
from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_protocol.errors import RejoinError

READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
CONCURRENT_RUNS = 2_000
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""The start of a command whose process the kernel kills when its parent dies."""


class Running(msgspec.Struct, frozen=True):
    """A server: its base URL and its process id."""

    base: str
    pid: int


class Backend(msgspec.Struct, frozen=True):
    """A complete chat backend whose answers come from `bench.provider`.

    name: Its name in the table.
    base: Its base URL.
    pids: Its process ids by service.
    worker: The service that asks the provider.
    run_standby: Starts a second process of that service. Yields, once that is ready, the server that viewers
        then ask.
    resume: How a viewer goes on whose connection was cut: behind its cursor, with a replay of the answer, or
        not at all.
    started_s: When its first process was started, as `time.monotonic` says it.
    """

    name: str
    base: str
    pids: dict[str, int]
    worker: str = ""
    run_standby: Callable[[], AbstractAsyncContextManager[Running]] | None = None
    resume: Literal["cursor", "replay"] | None = None
    started_s: float = 0.0


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def run_process(
    *command: str, stderr: int | None = None, end: signal.Signals = signal.SIGTERM
) -> AsyncIterator[Process]:
    """Run a command. At the end it gets the signal `end`."""
    child = await asyncio.create_subprocess_exec(
        *DIE_WITH_PARENT, *command, stdin=PIPE, stdout=PIPE, stderr=stderr
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.send_signal(end)
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            raise


def run_python(
    *arguments: str, stderr: int | None = None, end: signal.Signals = signal.SIGTERM
) -> AbstractAsyncContextManager[Process]:
    """Run Python with arguments. At the end it gets the signal `end`."""
    return run_process(sys.executable, *arguments, stderr=stderr, end=end)


@contextmanager
def data_directory() -> Iterator[Path]:
    """A new directory for the data of the embedded servers; PostgreSQL may run as another user in it."""
    with tempfile.TemporaryDirectory(prefix="rejoin-bench-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory) / "data"


@asynccontextmanager
async def run_infrastructure() -> AsyncIterator[Servers]:
    """NATS and PostgreSQL with streams and tables, as durable as in production."""
    with data_directory() as directory:
        async with embedded(directory) as servers:
            async with nats_connection.connect(servers.nats_url, "migrate") as connection:
                await setup.declare_streams(connection, setup.StreamSettings())
            await migrate.migrate(servers.database_url)
            yield servers


@asynccontextmanager
async def _service(servers: Servers, *arguments: str, **settings: object) -> AsyncIterator[Process]:
    """A service with its settings in a file."""
    values = {
        "nats_url": servers.nats_url,
        "database_url": servers.database_url,
        "log_level": "error",
        **GENEROUS_LIMITS,
        **settings,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        for name, value in values.items():  # JSON strings, numbers and booleans are valid TOML
            config.write(f"{name} = {msgspec.json.encode(value).decode()}\n")
        config.flush()
        async with run_python("-m", *arguments, "--config", config.name) as child:
            yield child


@asynccontextmanager
async def run_gateway(servers: Servers) -> AsyncIterator[Running]:
    """A gateway whose default agent is `clock`."""
    port = free_port()
    async with _service(
        servers, "rejoin", "gateway", port=port, allow_anonymous=True, default_agent="clock", **GENEROUS_RATES
    ) as child:
        base = f"http://127.0.0.1:{port}"
        await wait_until_ready(f"{base}/health/ready", child)
        yield Running(base, child.pid)


@asynccontextmanager
async def run_runner(servers: Servers, agents: str, **settings: object) -> AsyncIterator[int]:
    """A runner that pulls requests. Yields its process id."""
    port = free_port()
    async with _service(servers, "rejoin_runner", agents, health_port=port, **settings) as child:
        await wait_until_ready(f"http://127.0.0.1:{port}/health/ready", child)
        yield child.pid


@asynccontextmanager
async def run_rejoin(provider: Running) -> AsyncIterator[Backend]:
    """All processes of Rejoin, one of each."""
    settings = {
        "model_base_url": f"{provider.base}/v1",
        "max_concurrent_runs": CONCURRENT_RUNS,
        "drain_grace_s": 0,
    }
    async with (
        run_infrastructure() as servers,
        run_gateway(servers) as gateway,
        run_runner(servers, "bench.agents:chats", **settings) as runner,
    ):

        @asynccontextmanager
        async def run_standby() -> AsyncIterator[Running]:
            async with run_runner(servers, "bench.agents:chats", **settings):
                yield gateway

        pids = {
            "gateway": gateway.pid,
            "runner": runner,
            "broker": servers.nats.pid,
            "database": servers.postgres.pid,
        }
        yield Backend("rejoin", gateway.base, pids, "runner", run_standby, "cursor")


@asynccontextmanager
async def run_baseline(module: str = "bench.aiohttp_baseline") -> AsyncIterator[Running]:
    """The baseline `bare`, or another server module whose only argument is its port. It keeps nothing, and is
    killed at the end: to end the streams of a thousand silent answers takes it longer than anybody waits.
    """
    port = free_port()
    async with run_python("-m", module, str(port), end=signal.SIGKILL) as child:
        base = f"http://127.0.0.1:{port}"
        await wait_until_ready(base, child)
        yield Running(base, child.pid)


def run_provider() -> AbstractAsyncContextManager[Running]:
    """`bench.provider`, whose CPU time does not count."""
    return run_baseline("bench.provider")


@asynccontextmanager
async def run_dev(data_dir: Path) -> AsyncIterator[tuple[Running, float]]:
    """`rejoin dev`. Yields its gateway with the id of the command's process, and the seconds until it was
    ready.
    """
    clock = asyncio.get_running_loop().time
    started_at, port = clock(), free_port()
    options = ("--port", str(port), "--data-dir", str(data_dir))
    async with run_python("-m", "rejoin", "dev", *options, stderr=DEVNULL) as child:
        line = (await child.stdout.readline()).decode() if child.stdout else ""
        if not re.match(r"ready http://\S+", line):
            raise RejoinError("rejoin dev did not start")
        yield Running(f"http://127.0.0.1:{port}", child.pid), clock() - started_at


async def wait_until_ready(url: str, server: Process) -> None:
    """Wait until the URL answers with a status other than 503. Raises `RejoinError` if the server ends."""
    async with asyncio.timeout(READY_TIMEOUT_S), aiohttp.ClientSession() as http:
        while True:
            try:
                async with http.get(url) as response:
                    if response.status != 503:  # noqa: PLR2004
                        return
            except aiohttp.ClientError:
                pass
            if server.returncode is not None:
                raise RejoinError(f"{url}: its server has ended ({server.returncode})")
            await asyncio.sleep(0.05)
