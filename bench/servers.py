"""The processes that are measured, each for as long as a context. They listen on loopback."""

import asyncio
import re
import shutil
import socket
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
import msgspec
from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_protocol.errors import RejoinError

READY_TIMEOUT_S = 60.0
END_TIMEOUT_S = 30.0
TIED = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
"""Before a command: it dies when we do, whatever kills us."""


class Running(msgspec.Struct, frozen=True):
    """A server: its address, and the process to look at."""

    base: str
    pid: int


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def process(*arguments: str, stderr: int | None = None) -> AsyncIterator[Process]:
    """A Python of ours with arguments; asked to end at the end, and waited for."""
    child = await asyncio.create_subprocess_exec(
        *TIED, sys.executable, *arguments, stdin=PIPE, stdout=PIPE, stderr=stderr
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await child.wait()
        except TimeoutError:
            child.kill()
            raise


@contextmanager
def empty() -> Iterator[Path]:
    """A directory for the embedded servers' data, which a PostgreSQL of another user can reach."""
    with tempfile.TemporaryDirectory(prefix="rejoin-bench-") as directory:
        Path(directory).chmod(0o711)
        yield Path(directory) / "data"


@asynccontextmanager
async def backing() -> AsyncIterator[Servers]:
    """Broker and database, migrated. As durable as in production."""
    with empty() as directory:
        async with embedded(directory) as servers:
            async with nats_connection.connect(servers.nats_url, "migrate") as connection:
                await setup.declare_streams(connection, setup.StreamSettings())
            await migrate.migrate(servers.database_url)
            yield servers


@asynccontextmanager
async def _service(servers: Servers, *arguments: str, **settings: object) -> AsyncIterator[Process]:
    """A service with its settings in a file, as in production but without credentials."""
    wanted = {
        "nats_url": servers.nats_url,
        "database_url": servers.database_url,
        "log_level": "error",
        **settings,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        for name, value in wanted.items():  # JSON's texts, numbers and booleans are TOML's
            config.write(f"{name} = {msgspec.json.encode(value).decode()}\n")
        config.flush()
        async with process("-m", *arguments, "--config", config.name) as child:
            yield child


@asynccontextmanager
async def gateway(servers: Servers) -> AsyncIterator[Running]:
    """A gateway that answers for the agent `clock`, by default."""
    port = free_port()
    async with _service(
        servers, "gateway", "gateway", port=port, allow_anonymous=True, default_agent="clock"
    ) as child:
        base = f"http://127.0.0.1:{port}"
        await _answers(f"{base}/health/ready", child)
        yield Running(base, child.pid)


@asynccontextmanager
async def runner(servers: Servers, agents: str, **settings: object) -> AsyncIterator[int]:
    """A runner: its process."""
    async with _service(servers, "runner", agents, **settings) as child:
        yield child.pid


@asynccontextmanager
async def bare(module: str = "bench.bare") -> AsyncIterator[Running]:
    """The baseline, or another server of ours that takes its port as the only argument."""
    port = free_port()
    async with process("-m", module, str(port)) as child:
        base = f"http://127.0.0.1:{port}"
        await _answers(base, child)
        yield Running(base, child.pid)


@asynccontextmanager
async def dev(data_dir: Path) -> AsyncIterator[float]:
    """`rejoin dev`: the seconds until it said that it was ready."""
    clock = asyncio.get_running_loop().time
    began = clock()
    options = ("--port", str(free_port()), "--data-dir", str(data_dir))
    async with process("-m", "rejoin", "dev", *options, stderr=DEVNULL) as child:
        line = (await child.stdout.readline()).decode() if child.stdout else ""
        if not re.match(r"ready http://\S+", line):
            raise RejoinError("rejoin dev did not start")
        yield clock() - began


async def _answers(url: str, server: Process) -> None:
    """Until it answers there, and says no 503."""
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
