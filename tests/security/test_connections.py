"""A client that holds connections costs others nothing: they are few enough, and end in time."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest

from rejoin_adapters.embedded import Servers
from rejoin_gateway.http import request_body
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.listener.connections import (
    ConnectionLimits,
    Connections,
    is_this_machine,
    limit_by_files,
    peer_of,
)
from rejoin_protocol.limits import HEAD_BYTES_MAX
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST, Command, free_ports

QUICK = ConnectionLimits(head_s=0.3, idle_s=0.6, sweep_s=0.1)
HEAD = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def connected(base: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = base.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    """Waits until the gateway closes the connection."""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            while await reader.read(65_536):
                pass
    return True


async def answer_of(reader: asyncio.StreamReader) -> bytes:
    return (await reader.readuntil(b"\r\n\r\n")) + await reader.readexactly(15)


async def test_a_connection_without_a_request_ends(system: LocalSystem) -> None:
    """Without a byte, with a head that comes byte by byte, and after an answered request."""
    base = await system.gateway(connections=QUICK)
    async with (
        connected(base) as (silent, _),
        connected(base) as (slow, drip),
        connected(base) as (kept, asks),
    ):

        async def send_slowly() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in HEAD * 1_000:
                    drip.write(bytes([byte]))
                    await drip.drain()
                    await asyncio.sleep(0.05)

        asks.write(HEAD + b"\r\n")
        assert b" 200 " in await answer_of(kept)
        async with asyncio.TaskGroup() as tasks:
            dripping = tasks.create_task(send_slowly())
            assert [await is_closed(one) for one in (silent, slow, kept)] == [True] * 3
            dripping.cancel()


LINE = b"X-Filler: " + b"x" * 4_000 + b"\r\n"


@pytest.mark.parametrize("end", [b"", b"\r\n"], ids=["without an end", "whole"])
async def test_a_head_that_is_too_large_is_refused(system: LocalSystem, end: bytes) -> None:
    """128 headers of 8 KB are a megabyte, which aiohttp would keep for each connection."""
    base = await system.gateway()
    for before in (b"", b"\r\n\r\n"):  # HTTP allows empty lines there
        async with connected(base) as (reader, writer):
            writer.write(before + HEAD + LINE * (HEAD_BYTES_MAX // len(LINE) + 1) + end)
            assert b" 431 " in await reader.readline()
            assert str(HEAD_BYTES_MAX).encode() in await reader.read()
    async with connected(base) as (reader, writer):
        writer.write(HEAD + LINE * 20)
        await writer.drain()
        writer.write(b"\r\n")
        assert b" 200 " in await answer_of(reader)


async def test_a_body_behind_a_head_is_no_part_of_it(system: LocalSystem) -> None:
    """Also if the end of the head comes in two pieces."""
    base, size = await system.gateway(), 4 * HEAD_BYTES_MAX
    head = HEAD_OF_BODY.replace(str(BODY).encode(), str(size).encode())
    for at in range(len(head) - 4, len(head) + 1):
        async with connected(base) as (reader, writer):
            writer.write(head[:at])
            await writer.drain()
            writer.write(head[at:] + b"[" * size)
            assert b" 400 " in await reader.readline()


async def test_heads_that_never_end_hold_little_together(system: LocalSystem) -> None:
    """Those that have begun first are closed, and others are answered."""
    base = await system.gateway(connections=ConnectionLimits(heads_bytes_max=4 * HEAD_BYTES_MAX))
    async with contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(connected(base)) for _ in range(20)]
        for _, writer in held:
            writer.write(HEAD + LINE * 30)
            await writer.drain()
            async with connected(base) as (reader, asks):
                asks.write(HEAD + b"\r\n")
                assert b" 200 " in await answer_of(reader)
        assert await is_closed(held[0][0])
        newest, writer = held[-1]
        writer.write(b"\r\n")
        assert b" 200 " in await answer_of(newest)


async def test_requests_ahead_of_their_turn_count_as_heads(system: LocalSystem) -> None:
    """What a client sends while its answer still comes. Each connection has its bound, and all have theirs;
    those that keep to it are answered, one request after the other.
    """
    await system.runner()
    base = await system.gateway(connections=ConnectionLimits(heads_bytes_max=2 * HEAD_BYTES_MAX))
    async with contextlib.AsyncExitStack() as stack:

        async def ask() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await stack.enter_async_context(connected(base))
            body = json.dumps(system.chat(system.fresh("s"), "count 200 every 50 ms")).encode()
            writer.write(HEAD_OF_BODY.replace(str(BODY).encode(), str(len(body)).encode()) + body)
            assert b" 200 " in await reader.readline()
            return reader, writer

        reader, writer = await ask()
        writer.write(HEAD + LINE * (2 * HEAD_BYTES_MAX // len(LINE)))
        assert await is_closed(reader)
        held = [await ask() for _ in range(4)]
        for _, writer in held:
            writer.write(HEAD + LINE * 25)
            await writer.drain()
        assert await is_closed(held[0][0])
        async with connected(base) as (reader, writer):
            for _ in range(60):
                writer.write(HEAD + LINE + b"\r\n")
            for _ in range(60):
                assert b" 200 " in await answer_of(reader)


async def test_a_stream_is_not_idle_and_a_connection_may_be_used_again(system: LocalSystem) -> None:
    """A stream of several idle times, and requests with pauses between them."""
    await system.runner()
    base = await system.gateway(connections=QUICK)
    streamed = await system.post(base, system.chat(system.fresh("s"), "count 20 every 80 ms"))
    assert streamed.text.endswith(" 20")
    async with connected(base) as (reader, writer):
        for _ in range(4):
            writer.write(HEAD + b"\r\n")
            assert b" 200 " in await answer_of(reader)
            await asyncio.sleep(QUICK.idle_s / 2)


async def test_idle_connections_make_room(system: LocalSystem) -> None:
    """As many as may be and twice that: the newest are served, and a request in work is not closed."""
    await system.runner()
    base = await system.gateway(connections=ConnectionLimits(count_max=20))
    async with contextlib.AsyncExitStack() as stack:
        running = asyncio.create_task(
            system.post(base, system.chat(system.fresh("s"), "count 20 every 50 ms"))
        )
        held = [await stack.enter_async_context(connected(base)) for _ in range(60)]
        newest, writer = held[-1]
        writer.write(HEAD + b"\r\n")
        assert b" 200 " in await answer_of(newest)
        assert await is_closed(held[0][0])
        assert (await running).text.endswith(" 20")


async def test_without_room_a_client_waits_for_its_turn(system: LocalSystem) -> None:
    """All connections are in use: the next one is answered when one of them is done."""
    await system.runner()
    base = await system.gateway(connections=ConnectionLimits(count_max=2, sweep_s=0.1))
    async with asyncio.TaskGroup() as tasks:
        for _ in range(2):
            tasks.create_task(system.post(base, system.chat(system.fresh("s"), "count 10 every 50 ms")))
        await wait_until(lambda: len(system.apps[0][SERVICE].streams) == 2, "two open streams")
        async with connected(base) as (reader, writer):
            writer.write(HEAD + b"\r\n")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.1)
            async with asyncio.timeout(10):
                assert b" 200 " in await answer_of(reader)


async def test_the_connections_of_one_peer_are_bounded() -> None:
    """A peer of IPv6 is a network; this machine is a proxy for many; what is closed counts no more."""
    held = Connections(ConnectionLimits(peer_max=3))
    opened = [held.add(asyncio.Protocol(), "203.0.113.7") for _ in range(5)]
    assert [one is not None for one in opened] == [True] * 3 + [False] * 2
    assert held.add(asyncio.Protocol(), "203.0.113.8") is not None
    network = [held.add(asyncio.Protocol(), f"2001:db8:1:2::{number:x}") for number in range(5)]
    assert sum(one is not None for one in network) == 3
    assert all(held.add(asyncio.Protocol(), "127.0.0.1") for _ in range(9))
    first = opened[0]
    assert first is not None
    held.remove(first)
    held.remove(first)
    assert held.add(asyncio.Protocol(), "203.0.113.7") is not None
    assert held.add(asyncio.Protocol(), "203.0.113.7") is None
    assert peer_of("::ffff:203.0.113.7") == "203.0.113.7"
    assert is_this_machine(peer_of("::1"))


@pytest.mark.parametrize(
    ("wanted", "files", "given"), [(10_000, 65_536, 10_000), (10_000, 1_024, 768), (10_000, 100, 50)]
)
def test_file_descriptors_for_everything_else_remain(wanted: int, files: int, given: int) -> None:
    assert limit_by_files(wanted, files) == given


BODY = 900_000
HEAD_OF_BODY = f"""POST /api/chat HTTP/1.1
Host: localhost
Content-Type: application/json
Content-Length: {BODY}

""".replace("\n", "\r\n").encode()


async def test_bodies_that_stop_in_the_middle_are_counted_and_end(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold no more than the budget, those that hold it get a 408, and others' requests are served."""
    monkeypatch.setattr(request_body, "COUNTED_TIMEOUT_S", 1.0)
    await system.runner()
    base = await system.gateway()
    bodies = system.apps[0][SERVICE].large_bodies
    bodies.free, bodies.wait_s = 8 * BODY, 0.2
    async with contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(connected(base)) for _ in range(20)]
        for _, writer in held:
            writer.write(HEAD_OF_BODY + b"[" * (BODY - 1))
        async with asyncio.timeout(10):
            told = [(await reader.readline()).split()[1] for reader, _ in held]
        assert told.count(b"408") + told.count(b"503") == 20
        assert 1 <= told.count(b"408") <= 8
        answer = await system.post(base, system.chat(system.fresh("s"), "count 3"))
        assert answer.text == "1 2 3"
    assert bodies.free == 8 * BODY


@pytest.mark.slow
async def test_a_gateway_without_file_descriptors_goes_on_and_logs_little(
    servers: Servers, tmp_path: Path
) -> None:
    """More connections than it may have files: it wrote 163,827 lines and answered nobody. No header of what
    is no HTTP is in the log.
    """
    port, files = free_ports(1), 256
    variables = {
        "REJOIN_NATS_URL": servers.nats_url,
        "REJOIN_DATABASE_URL": servers.database_url,
        "REJOIN_ALLOW_ANONYMOUS": "true",
        "REJOIN_LOG_FORMAT": "json",
        "REJOIN_PORT": str(port),
    }
    async with await Command.start(tmp_path / "gateway", "gateway", variables=variables) as gateway:
        await gateway.says('"listening"')
        async with connected(f"http://{HOST}:{port}") as (reader, writer):
            writer.write(HEAD + b"Cookie: id=hunter2\r\nAuth-Token: hunter2\r\nno header hunter2\r\n\r\n")
            assert b" 400 " in await reader.readline()
        assert "hunter2" not in gateway.err
        # Below what it believes to have, as if other files took the rest.
        gateway.family()[0].rlimit(psutil.RLIMIT_NOFILE, (files, files))
        lines = len(gateway.err.splitlines())
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2 * files):
                await stack.enter_async_context(connected(f"http://{HOST}:{port}"))
            async with aiohttp.ClientSession() as http:
                for _ in range(5):
                    async with http.get(f"http://{HOST}:{port}/health/live") as response:
                        assert response.status == 200
        written = gateway.err.splitlines()[lines:]
        assert len(written) <= 5, written[:10]
        assert any("connections_full" in line for line in written)
