"""The commands as real processes that a test watches and kills: `rejoin dev` and what it starts.

All processes end with the test.
"""

import asyncio
import os
import secrets
import socket
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Self

import psutil

from tests.support.system.forked_python import ROOT, Fork, fork_server
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

HOST = "127.0.0.1"
START_S = 90.0

type Part = Literal["gateway", "runner", "nats", "postgres"]


def living_children() -> set[psutil.Process]:
    """The processes below that of the tests, without those that its database server starts and ends by
    itself.
    """
    found = set[psutil.Process]()
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if one.name() != "postgres":
                found.add(one)
    return found


def free_ports(count: int) -> int:
    """The first of `count` consecutive free ports, outside the range that the system hands out."""
    for _ in range(1_000):
        first = 20_000 + secrets.randbelow(12_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind((HOST, port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


def has_exited(process: psutil.Process) -> bool:
    """Whether the process has ended; a zombie has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _created(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)


class Command:
    """A `rejoin` command: its output, its child processes, its end."""

    def __init__(self, process: asyncio.subprocess.Process | Fork, logs: Path) -> None:
        self._process = process
        self._logs = logs

    @classmethod
    async def start(
        cls,
        logs: Path,
        *arguments: str,
        variables: Mapping[str, str] | None = None,
        module: str = "rejoin",
        script: Path | None = None,
        cwd: Path = ROOT,
    ) -> "Command":
        """Start it, with its output in files that begin with `logs`.

        `module`: the package that is run. `script`: an installed `rejoin` to run instead.
        """
        kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
        env = kept | dict(variables or {})
        out, err = _created(f"{logs}.out"), _created(f"{logs}.err")
        try:
            if script:
                stdin = asyncio.subprocess.DEVNULL
                process: asyncio.subprocess.Process | Fork = await asyncio.create_subprocess_exec(
                    script, *arguments, cwd=cwd, stdin=stdin, stdout=out, stderr=err, env=env
                )
            else:
                process = await fork_server().fork(
                    module, arguments, cwd=cwd, variables=env, stdout=out, stderr=err
                )
        finally:
            os.close(out)
            os.close(err)
        return cls(process, logs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        family = self.family() if self.running else []
        if self.running:
            self._process.kill()
        await self._process.wait()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await wait_until(lambda: all(map(has_exited, family)), "the end of all that was started")

    @property
    def out(self) -> str:
        """Its stdout."""
        return Path(f"{self._logs}.out").read_text()

    @property
    def err(self) -> str:
        """The stderr of the command and its children."""
        return Path(f"{self._logs}.err").read_text()

    @property
    def running(self) -> bool:
        """Whether it is alive."""
        return self._process.returncode is None

    async def says(self, word: str, deadline_s: float = START_S) -> None:
        """Wait until a word is in stdout or stderr."""

        async def said() -> bool:
            assert self.running, self.err
            return word in self.out or word in self.err

        await wait_until(said, f"{word!r}", deadline_s)

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants. None of a process that has just been killed: its parent, the
        fork server, may have heard of the end before these tests.
        """
        with suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            return [own, *own.children(recursive=True)]
        return []

    def living(self, part: Part, port: int | None = None) -> list[psutil.Process]:
        """The living child processes of a kind; `port`: only the gateway on this port."""
        found = [one for one in self.family()[1:] if _is(one, part)]
        return [one for one in found if port is None or _port(one) == str(port)]

    def signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def end(self, deadline_s: float = START_S) -> int:
        """Wait for its end. Returns the exit code."""
        async with asyncio.timeout(deadline_s):
            return await self._process.wait()


async def run_rejoin(system: LocalSystem, *arguments: str, **variables: str) -> tuple[int, str, str]:
    """Run a command to its end. Returns its exit code, stdout and stderr."""
    with TemporaryDirectory() as folder:
        command = await Command.start(
            Path(folder, "command"), *arguments, variables=os.environ | system.variables(**variables)
        )
        async with command:
            return await command.end(), command.out, command.err


def _is(process: psutil.Process, part: Part) -> bool:
    """Whether a process is of this kind. It may end during the look-up."""
    with suppress(psutil.NoSuchProcess):  # a zombie is one of these
        match part:
            case "gateway" | "runner":  # its service module, which `rejoin dev` imports ahead
                return f"rejoin_{part}.app" in process.cmdline()
            case "nats":
                return process.name() == "nats-server" and not has_exited(process)
            case "postgres":  # the first of them: the others are its children
                parent = process.parent()
                first = parent is None or parent.name() != "postgres"
                return process.name() == "postgres" and first and not has_exited(process)
    return False


def _port(process: psutil.Process) -> str | None:
    with suppress(psutil.NoSuchProcess):
        return process.environ().get("REJOIN_PORT")
    return None


class Dev:
    """`rejoin dev` with `each` gateways and `each` runners, on a data directory that outlives it."""

    def __init__(self, place: Path, *words: str, each: int, variables: Mapping[str, str]) -> None:
        self.place = place
        self.each = each
        self.port = free_ports(each)
        self.starts = 0
        self.nats_url = ""
        self.database_url = ""
        self._words = words
        self._variables = variables
        self._command: Command | None = None

    @property
    def command(self) -> Command:
        """The command that was started last."""
        assert self._command is not None
        return self._command

    @property
    def gateways(self) -> list[str]:
        """Their base URLs."""
        return [f"http://{HOST}:{self.port + number}" for number in range(self.each)]

    async def up(self) -> None:
        """Start it unless it runs. Its servers keep their addresses."""
        if self._command is None or not self._command.running:
            self._command = await self.start(self.port, self.place / "data")
            await self._command.says(f"ready http://{HOST}:{self.port}\n")
            found = tomllib.loads((self.place / "data" / "rejoin.toml").read_text())
            self.nats_url, self.database_url = found["nats_url"], found["database_url"]

    async def start(self, port: int, data: Path) -> Command:
        """Start one, whether or not it can run."""
        self.starts += 1
        many = str(self.each)
        options = ("--port", str(port), "--gateways", many, "--runners", many, "--data-dir", str(data))
        logs = self.place / f"logs-{self.starts}"
        return await Command.start(logs, "dev", *self._words, *options, variables=self._variables)

    def find(self, part: Part, number: int = 0) -> psutil.Process:
        """A living process; a gateway keeps its number. Raises `LookupError` while there is none."""
        if part == "gateway":
            found = self.command.living(part, self.port + number)
        else:
            found = self.command.living(part)[number:]
        if not found:
            raise LookupError(f"{part} {number}")
        return found[0]

    def kill_runners(self) -> None:
        """Kill all runners. `rejoin dev` starts new ones."""
        for process in self.command.living("runner"):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    async def close(self) -> None:
        """End it if it runs."""
        if self._command is not None:
            async with self._command:
                pass


@asynccontextmanager
async def rejoin_dev(
    place: Path, *words: str, each: int = 2, variables: Mapping[str, str] | None = None
) -> AsyncIterator[Dev]:
    """A running `rejoin dev`, ended with all its processes. `words`: its arguments, such as MODULE:ATTR of
    agents.
    """
    one = Dev(place, *words, each=each, variables=variables or {})
    try:
        await one.up()
        yield one
    finally:
        await one.close()
