"""Our commands as real processes, to be watched and killed: `rejoin dev` and what it starts.

What is started here is ended here, with all that it has started.
"""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import psutil

from tests.observe import until

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
START_S = 40.0


def free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for first in range(20_000, 32_000, 7):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind((HOST, port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def gone(process: psutil.Process) -> bool:
    """Whether it has ended; nobody may have fetched its exit code yet."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _created(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


class Command:
    """`rejoin …`: what it says, what it starts, how it ends."""

    def __init__(self, process: asyncio.subprocess.Process, logs: Path) -> None:
        self._process = process
        self._logs = logs

    @classmethod
    async def start(
        cls, logs: Path, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> "Command":
        """Start it, with its words in files that begin with `logs`."""
        kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=(out := _created(f"{logs}.out")),
            stderr=(err := _created(f"{logs}.err")),
            env=kept | dict(variables or {}),
        )
        os.close(out)
        os.close(err)
        return cls(process, logs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        family = self.family() if self._process.returncode is None else []
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        for process in family:
            if not gone(process):
                process.kill()

    @property
    def out(self) -> str:
        """What it has written to stdout."""
        return Path(f"{self._logs}.out").read_text()

    @property
    def err(self) -> str:
        """What it and its children have written to stderr."""
        return Path(f"{self._logs}.err").read_text()

    @property
    def running(self) -> bool:
        """Whether it is alive."""
        return self._process.returncode is None

    async def says(self, word: str, deadline_s: float = START_S) -> None:
        """Until a word of its is on stdout or stderr."""

        async def said() -> bool:
            assert self.running, self.err
            return word in self.out or word in self.err

        await until(said, f"{word!r}", deadline_s)

    def family(self) -> list[psutil.Process]:
        """It and everything that it has started."""
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def end(self, deadline_s: float = START_S) -> int:
        """Its exit code."""
        async with asyncio.timeout(deadline_s):
            return await self._process.wait()


class Dev:
    """`rejoin dev` with two gateways and two runners, on a data directory that outlives it."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port = free_ports(2)
        self.starts = 0
        self.command: Command | None = None

    @property
    def gateways(self) -> list[str]:
        """Their base URLs."""
        return [f"http://{HOST}:{self.port + number}" for number in range(2)]

    async def up(self) -> Command:
        """Start it unless it runs."""
        if self.command is None or not self.command.running:
            self.starts += 1
            self.command = await self.start(self.port, self.place / "data")
            await self.command.says(f"ready http://{HOST}:{self.port}\n")
        return self.command

    async def start(self, port: int, data: Path) -> Command:
        """Start one, whether it can run or not."""
        self.starts += 1
        options = ("--port", str(port), "--gateways", "2", "--runners", "2", "--data-dir", str(data))
        return await Command.start(self.place / f"logs-{self.starts}", "dev", *options)

    def runners(self) -> list[psutil.Process]:
        """The runners that live."""
        return [process for process in self._services() if "runner" in process.cmdline()]

    def gateway(self, number: int) -> psutil.Process:
        """One of the gateways."""
        port = str(self.port + number)
        found = [one for one in self._services() if one.environ().get("REJOIN_PORT") == port]
        assert found, f"gateway {number} does not run"
        return found[0]

    def nats(self) -> psutil.Process:
        """The broker."""
        return next(process for process in self._children() if process.name() == "nats-server")

    def postgres(self) -> psutil.Process:
        """The database's first process."""
        return next(process for process in self._children() if process.name() == "postgres")

    def variable(self, name: str) -> str:
        """A variable that the services were started with."""
        return self.gateway(0).environ()[name]

    def _children(self) -> list[psutil.Process]:
        assert self.command is not None
        return [process for process in self.command.family()[1:] if not gone(process)]

    def _services(self) -> list[psutil.Process]:
        return [process for process in self._children() if "-m" in process.cmdline()]


@asynccontextmanager
async def dev(place: Path) -> AsyncIterator[Dev]:
    """A `rejoin dev` that is started when it is needed, and ended."""
    one = Dev(place)
    try:
        yield one
    finally:
        if one.command is not None:
            async with one.command:
                pass
