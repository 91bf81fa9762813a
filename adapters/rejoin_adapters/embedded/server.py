"""What the two embedded servers share: locking of the directory, start, readiness, stop.

A start has this order: lock, preparation, port, process, readiness; all within a deadline. A server does not
restart by itself: the caller awaits `wait` and calls `start`.

The processes of the server hold the lock file, not this process: it is free exactly when the last of them has
ended. So no process id is trusted, not even one in a file that a `kill -9` left behind.
"""

import abc
import asyncio
import fcntl
import os
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

from rejoin_adapters.embedded.child import Child, EndSignal
from rejoin_protocol.errors import RejoinError

HOST = "127.0.0.1"
SERVER_START_TIMEOUT_S = 60.0
PREDECESSOR_TIMEOUT_S = 20.0  # PostgreSQL gives its own children 5 s before it kills them
POLL_INTERVAL_S = 0.02
PORT_ATTEMPTS_MAX = 5


class EmbeddedError(RejoinError):
    """A server is not installed, runs already, or did not start; the text says which, and what to do."""


class ServerOptions(NamedTuple):
    """The options of the servers: their data directory; `durable`: committed data survives a power cut;
    `report` receives lines for a terminal.
    """

    path: Path
    durable: bool
    report: Callable[[str], None]


class EmbeddedServer(abc.ABC):
    """One embedded server. `start`, `stop` and `kill` may follow each other in any order; the port stays."""

    name: ClassVar[str]
    death_signal: ClassVar[signal.Signals]  # sent to the server when this process dies
    stop_signals: ClassVar[tuple[EndSignal, ...]]

    def __init__(self, options: ServerOptions, port: int) -> None:
        self.options = options
        self.log = options.path / f"{self.name.lower()}.log"
        self._lock_path = options.path / f"{self.name.lower()}.lock"
        self._port = port
        self._child: Child | None = None
        self._starting = asyncio.Lock()

    @abc.abstractmethod
    async def prepare(self, lock_fd: int) -> None:
        """Prepare the directory while no process of this server runs."""

    @abc.abstractmethod
    async def spawn(self, port: int, lock_fd: int) -> Child:
        """Start the process."""

    @abc.abstractmethod
    async def ready(self, port: int) -> bool:
        """Whether the server accepts clients."""

    @abc.abstractmethod
    def url(self) -> str:
        """The URL for clients, with its secret. Valid after the first start, and constant."""

    @property
    def port(self) -> int:
        """The port, which stays the same once it was started."""
        return self._port

    @property
    def pid(self) -> int:
        """The process id of the server that runs, or ran last."""
        return self._require_child().pid

    @property
    def running(self) -> bool:
        """Whether its process is alive."""
        return self._child is not None and self._child.returncode is None

    async def wait(self) -> int:
        """Wait for the end of the current process, intended or not; returns its return code."""
        return await self._require_child().wait()

    async def start(self) -> None:
        """Start the server and return when it is ready. Does nothing if it runs already."""
        async with self._starting:
            if not self.running:
                await self.stop()  # closes what is left of a process that ended by itself
                self.options.report(f"starting {self.name}")
                await self._start()

    async def stop(self) -> None:
        """Stop the server gracefully, in the end by SIGKILL. A cancellation only makes it faster."""
        if self._child:
            await self._child.end(*self.stop_signals)

    async def kill(self) -> None:
        """End the server by SIGKILL."""
        await self._require_child().end()

    async def restart(self) -> None:
        """Stop, then start, on the same port and data."""
        await self.stop()
        await self.start()

    def _require_child(self) -> Child:
        if self._child is None:
            raise EmbeddedError(f"{self.name} was not started")
        return self._child

    async def _start(self) -> None:
        async with self._locked() as lock_fd:
            await self.prepare(lock_fd)
            for attempts_left in reversed(range(PORT_ATTEMPTS_MAX)):
                port = self._port or free_port()
                child = await self.spawn(port, lock_fd)
                os.pwrite(lock_fd, f"{child.pid:<10}\n".encode(), 0)  # only for the text of an error
                try:
                    await self._wait_until_ready(child, port)
                except BaseException as error:
                    await child.end(*self.stop_signals)
                    lost_race = isinstance(error, EmbeddedError) and "ddress already in use" in str(error)
                    if self._port or not attempts_left or not lost_race:
                        raise
                else:
                    self._child, self._port = child, port
                    return

    async def _wait_until_ready(self, child: Child, port: int) -> None:
        try:
            async with asyncio.timeout(SERVER_START_TIMEOUT_S):
                while child.returncode is None:
                    if await self.ready(port):
                        return
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            raise EmbeddedError(
                self._report(child, f"was not ready after {SERVER_START_TIMEOUT_S:.0f} s")
            ) from None
        raise EmbeddedError(self._report(child, f"ended with code {child.returncode} instead of starting"))

    def _report(self, child: Child, what: str) -> str:
        return f"{self.name} {what}. The end of {self.log}:\n{child.log_tail()}"

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[int]:
        """Lock the server's lock file; yields its file descriptor, for the server's process."""
        lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            await self._wait_for_lock(lock_fd)
            yield lock_fd
        finally:
            os.close(lock_fd)

    async def _wait_for_lock(self, lock_fd: int) -> None:
        try:
            async with asyncio.timeout(PREDECESSOR_TIMEOUT_S):
                while not try_lock(lock_fd):  # noqa: ASYNC110  # another process holds it: nothing to await
                    await asyncio.sleep(POLL_INTERVAL_S)
        except TimeoutError:
            pid = os.pread(lock_fd, 10, 0).decode().strip()
            raise EmbeddedError(
                f"an earlier {self.name} (process {pid}) still runs on {self.options.path}: end it first"
            ) from None


def try_lock(fd: int) -> bool:
    """Take the lock of an open file (flock(2)), held until the last process that has it open is gone."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def free_port() -> int:
    """A port that was free a moment ago. If another process takes it first, the start tries another port."""
    with socket.create_server((HOST, 0)) as listening:
        return int(listening.getsockname()[1])


def load_secret(path: Path) -> str:
    """The password in this file, generated if the file is missing or empty. Only this user and root can read
    it.
    """
    if not path.exists() or not path.stat().st_size:
        path.touch(0o600)
        path.write_text(secrets.token_hex(24))
    return path.read_text()


def path_in_wheel(package: str, *inside: str) -> Path:
    """The path of a file inside an installed package. The package is not imported: its code is not used."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"{package} is not installed: install rejoin[embedded], "
            "or set REJOIN_NATS_URL and REJOIN_DATABASE_URL"
        )
    return Path(spec.submodule_search_locations[0], *inside)
