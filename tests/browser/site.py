"""What the browser tests stand on: Node's packages, real processes, and a load balancer in front of them."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from tests.observe import until
from tests.processes import HOST, Command, gone

HERE = Path(__file__).parent
LOCK = HERE / "package-lock.json"
INSTALLED = HERE / "node_modules" / ".installed"
"""Says for which lock file the packages beside it are."""
INSTALL_S_MAX = 240.0
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
READ_BYTES = 65_536


def missing(reason: str) -> NoReturn:
    """Skip; but where it must not be missed, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def chromium() -> str:
    """The browser."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    return found or missing("the browser tests need Chromium, and there is none")


async def packages() -> str:
    """Node, with the packages of the lock file installed beside this file."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        missing("the browser tests need Node with npm, and there is none")
    wanted = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if not (INSTALLED.exists() and INSTALLED.read_text() == wanted):
        code, said = await spoken(npm, "ci", seconds=INSTALL_S_MAX)
        if code:
            missing(f"npm ci failed: {said[-2_000:]}")
        INSTALLED.write_text(wanted)
    return node


async def spoken(*command: str, seconds: float) -> tuple[int, str]:
    """A command's exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=HERE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")


class Front:
    """A load balancer of the plainest kind: a connection goes to the first gateway that takes it."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.taken = dict.fromkeys(ports, 0)
        self.base = ""
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Front"]:
        """It listens, for as long as the context."""
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.base = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    def cut(self) -> None:
        """Break every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            upstream = await self._connect()
            if upstream is not None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, upstream[1], writer))
                    group.create_task(_copy(upstream[0], writer, upstream[1]))
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self.ports:
            with suppress(OSError):
                found = await asyncio.open_connection(HOST, port)
                self.taken[port] += 1
                return found
        return None


def _is_runner(process: psutil.Process) -> bool:
    """Whether it is one that lives; it may die while it is looked at."""
    try:
        return not gone(process) and "runner" in process.cmdline()[1:4]
    except psutil.NoSuchProcess:  # a zombie is one of these
        return False


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter
) -> None:
    """Until either side ends; then both do, as abruptly as a process dies."""
    try:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
        back.transport.abort()


class Site:
    """Two gateways behind a load balancer, two runners, and their plugs."""

    def __init__(self, command: Command, front: Front) -> None:
        self.command = command
        self.front = front

    @property
    def base(self) -> str:
        """Where a browser goes."""
        return self.front.base

    async def whole(self) -> None:
        """Until every gateway listens; who connects from then on comes to the first."""

        async def listening() -> bool:
            for port in self.front.ports:
                try:
                    _, writer = await asyncio.open_connection(HOST, port)
                except OSError:
                    return False
                writer.close()
            return True

        await until(listening, "the gateways' return")
        self.front.cut()

    def runners(self) -> list[psutil.Process]:
        """Those that live."""
        return [one for one in self.command.family()[1:] if _is_runner(one)]

    def kill_runners(self) -> None:
        """All of them. They are started again."""
        for process in self.runners():
            process.kill()

    def kill_gateway(self, port: int) -> None:
        """One of the gateways. It is started again."""
        for process in self.command.family()[1:]:
            with suppress(psutil.NoSuchProcess):
                if process.environ().get("REJOIN_PORT") == str(port):
                    process.kill()
