"""Disks of the servers run full: the gateway says so, refuses what it could not answer and loses nothing.

Each server has a small file system of its own. Mounting one needs root.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import override

import pytest

from rejoin_adapters.embedded.nats import NatsServer
from rejoin_adapters.embedded.postgres import PostgresServer
from rejoin_adapters.embedded.server import ServerOptions
from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.postgres import migrate
from rejoin_protocol.broker import subjects
from tests.support.browser.node import skip_or_fail
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MIB = 1024 * 1024
MOUNT, UMOUNT = (shutil.which(name) or name for name in ("mount", "umount"))


@contextmanager
def small_disk(path: Path, mib: int) -> Iterator[Path]:
    """A file system in memory, unmounted at the end."""
    path.mkdir()
    mounted = subprocess.run(
        [MOUNT, "-t", "tmpfs", "-o", f"size={mib}m,mode=0777", "tmpfs", path],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        skip_or_fail(f"a file system cannot be mounted here: {mounted.stderr.decode()}")
    try:
        yield path
    finally:
        subprocess.run([UMOUNT, "--lazy", path], check=True)


class Filler:
    """A file that takes all space of a disk."""

    def __init__(self, disk: Path) -> None:
        self._file = disk / "filler"

    def fill(self) -> None:
        with self._file.open("wb", buffering=0) as file:
            for size in (MIB, 4096, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    def free(self) -> None:
        self._file.unlink()


@asynccontextmanager
async def running(server: NatsServer | PostgresServer) -> AsyncIterator[None]:
    await server.start()
    try:
        yield
    finally:
        await server.stop()


def options(path: Path) -> ServerOptions:
    return ServerOptions(path, durable=False, report=lambda _: None)


async def readiness(system: LocalSystem, base: str) -> tuple[int, str]:
    async with system.http.get(f"{base}/health/ready") as response:
        assert (response.status == 503) == ("Retry-After" in response.headers)
        return response.status, await response.text()


async def becomes(system: LocalSystem, base: str, status: int, word: str) -> None:
    async def is_so() -> bool:
        now, text = await readiness(system, base)
        return now == status and word in text

    await wait_until(is_so, f"readiness {status} with {word!r}", 60)


async def refused(system: LocalSystem, base: str) -> None:
    async with asyncio.timeout(15):
        answer = await system.post(base, system.chat(system.fresh("s"), "count 3"))
    assert answer.status == 503, answer.raw
    assert int(answer.headers["retry-after"]) > 0


async def test_a_full_disk_of_the_broker(tmp_path: Path, database_url: str) -> None:
    """503 while it lasts; what was acknowledged is there; it says what to restart, and then goes on."""
    with small_disk(tmp_path / "disk", 48) as disk:
        server = NatsServer(options(disk), 0)
        async with running(server):
            async with nats_connection.connect(server.url(), "migrate") as admin:
                await setup.declare_streams(admin, setup.StreamSettings())
            async with LocalSystem(server.url(), database_url) as system:
                base = await system.gateway()
                await system.runner()
                answered = system.chat(system.fresh("s"), "count 20")
                before = await system.post(base, answered)
                assert before.complete
                await becomes(system, base, 200, "ok")
                filler = Filler(disk)
                filler.fill()
                await becomes(system, base, 503, "restart the NATS server")
                await refused(system, base)
                filler.free()
                await asyncio.sleep(3)
                assert (await readiness(system, base))[0] == 503, "NATS does not go on by itself"
                await server.restart()
                await becomes(system, base, 200, "ok")
                replayed = await system.get(f"{base}/api/chat/{answered['id']}/stream?startIndex=0")
                assert replayed.raw == before.raw
                after = await system.post(base, system.chat(system.fresh("s"), "count 3"))
                assert after.text == "1 2 3"


class LimitedServer(NatsServer):
    """A broker that stores little."""

    @override
    def config(self, port: int) -> str:
        return super().config(port).replace("max_file_store: 256GB", "max_file_store: 16MB")


async def test_the_brokers_limit_of_storage(tmp_path: Path, database_url: str) -> None:
    """It refuses what it cannot store, and goes on by itself."""
    server = LimitedServer(options(tmp_path), 0)
    async with running(server), nats_connection.connect(server.url(), "migrate") as admin:
        await setup.declare_streams(admin, setup.StreamSettings())
        async with LocalSystem(server.url(), database_url) as system:
            base = await system.gateway()
            await system.runner()
            await becomes(system, base, 200, "ok")
            await fill_stream(admin)
            await becomes(system, base, 503, "it goes on by itself")
            await refused(system, base)
            await admin.call_api(f"{subjects.JETSTREAM_API}.STREAM.PURGE.{subjects.FILES}")
            await becomes(system, base, 200, "ok")
            after = await system.post(base, system.chat(system.fresh("s"), "count 3"))
            assert after.text == "1 2 3"


async def fill_stream(admin: nats_connection.NatsConnection) -> None:
    for number in range(400):
        try:
            await admin.call_api(f"file.t.f.{number}", b"x" * 500_000)
        except nats_connection.StorageFull:
            return
    pytest.fail("the broker has no limit")


async def test_a_full_disk_of_the_database(tmp_path: Path, nats_url: str) -> None:
    """503 while it lasts; what was acknowledged is there; it goes on by itself, or after a start if it has
    stopped.
    """
    if os.geteuid():
        skip_or_fail("mounting a file system needs root")
    with small_disk(tmp_path / "disk", 160) as disk:
        server = PostgresServer(options(disk), 0)
        async with running(server):
            await migrate.migrate(server.url())
            async with LocalSystem(nats_url, server.url()) as system:
                base = await system.gateway()
                await system.runner()
                chat = system.chat(system.fresh("s"), "count 20")
                before = await system.post(base, chat)
                assert before.complete
                await becomes(system, base, 200, "ok")
                filler = Filler(disk)
                filler.fill()
                await becomes(system, base, 503, "database")
                filler.free()
                if not server.running:
                    await server.start()
                await becomes(system, base, 200, "ok")
                history = await system.get(f"{base}/api/agents/{system.agent}/{chat['id']}")
                assert len(history.json["messages"]) == 2
                after = await system.post(base, system.chat(system.fresh("s"), "count 3"))
                assert after.text == "1 2 3"
