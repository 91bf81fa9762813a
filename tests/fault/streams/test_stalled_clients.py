"""A client that stops reading costs its gateway little memory, however much passes it, and receives
everything.

The gateway is a process of its own; its resident memory counts. `REJOIN_STALLED_MB=100` is the full size.
"""

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.output import journal
from tests.support.clients.reconnecting_client import DONE
from tests.support.models.scripted_models import BurstModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import RecordMeasurement, client_bytes, read_log, wait_until
from tests.support.system.processes import HOST, Command, free_ports

pytestmark = pytest.mark.slow

MB = 1024 * 1024
PASSING_MB = int(os.environ.get("REJOIN_STALLED_MB", "24"))
PIECE_BYTES = 128 * 1024
STALLED = 8
"""The memory of a process grows in strides: what one client costs is an eighth of what eight cost."""
EACH_BYTES_MAX = MB
BUFFER_BYTES = 64 * 1024


class Raw:
    """A client on a raw socket with a small buffer. It reads only on demand, and never ahead."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""

    @classmethod
    async def post(cls, port: int, body: Any) -> "Raw":
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        connection.setblocking(False)
        loop, sent = asyncio.get_running_loop(), msgspec.json.encode(body)
        await loop.sock_connect(connection, (HOST, port))
        head = (
            f"POST /api/chat HTTP/1.0\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(sent)}\r\n\r\n"
        )
        await loop.sock_sendall(connection, head.encode() + sent)
        return cls(connection)

    async def head(self) -> dict[str, str]:
        """The response's headers; small letters."""
        raw = b""
        while b"\r\n\r\n" not in raw:
            raw += await self.some()
        head, _, self._rest = raw.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        assert " 200 " in status, raw
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    async def some(self) -> bytes:
        """What comes next; nothing at the end."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return await asyncio.get_running_loop().sock_recv(self._socket, BUFFER_BYTES)

    async def digest(self) -> tuple[str, int]:
        """Of everything that comes, to the end, and how much it is."""
        found, size_bytes = hashlib.sha256(), 0
        while received := await self.some():
            found.update(received)
            size_bytes += len(received)
        return found.hexdigest(), size_bytes

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def gateway(system: LocalSystem, place: Path) -> AsyncIterator[tuple[int, psutil.Process]]:
    """One of its own process: its port, and it."""
    port = free_ports(1)
    variables = system.variables(
        REJOIN_DEFAULT_AGENT=system.agent, REJOIN_PORT=str(port), REJOIN_ALLOW_ANONYMOUS="true"
    )
    async with await Command.start(place / "gateway", "gateway", variables=variables) as command:
        await command.says('"listening"')
        yield port, command.family()[0]


@pytest.mark.feature("F89")
@pytest.mark.timeout(120 + PASSING_MB * 2)
async def test_a_stalled_client_costs_less_than_a_megabyte_and_misses_nothing(
    system: LocalSystem,
    tmp_path: Path,
    record_measurement: RecordMeasurement,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight of them; a ninth client of the same gateway reads meanwhile, so that all of it does pass."""
    monkeypatch.setattr(journal, "ANSWER_BYTES_MAX", 2 * PASSING_MB * MB)
    pieces = BurstModel(pieces=PASSING_MB * MB // PIECE_BYTES, size=PIECE_BYTES)
    runner = await system.runner([Agent(name=system.agent, model=pieces)])
    async with gateway(system, tmp_path) as (port, process):
        warm = await Raw.post(port, system.chat(system.fresh("s"), "what a client costs that reads"))
        await warm.digest()
        warm.close()
        before = process.memory_full_info().uss
        body = system.chat(system.fresh("s"), "hello")
        stalled = [await Raw.post(port, body) for _ in range(STALLED)]
        run = {(await one.head())["x-workflow-run-id"] for one in stalled}
        reads = await Raw.post(port, body)
        await reads.head()
        read = await reads.digest()
        await wait_until(lambda: runner.active_runs == 0, "the runner's rest")
        each = (process.memory_full_info().uss - before) / STALLED
        async with asyncio.TaskGroup() as group:
            caught_up = [group.create_task(one.digest()) for one in stalled]
        for client in (*stalled, reads):
            client.close()
    expected = client_bytes(await read_log(system.nats_url, run.pop())) + DONE
    assert not run, "they were to see one run"
    assert len(expected) > PASSING_MB * MB
    whole = (hashlib.sha256(expected).hexdigest(), len(expected))
    assert {read, *(one.result() for one in caught_up)} == {whole}
    record_measurement(f"{PASSING_MB} MB passed {STALLED} stalled clients: {each / 1024:.0f} KiB for each")
    assert each < EACH_BYTES_MAX
