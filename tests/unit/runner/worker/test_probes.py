"""What a runner answers to probes, and what it does with connections that are none."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

import msgspec
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_runner.worker import probes
from rejoin_runner.worker.probes import RunnerHealth, answering_probes, open_probe_socket

type Address = tuple[str, int]


@pytest.fixture
def health() -> RunnerHealth:
    found = RunnerHealth(late_s=10, stuck_s=60)
    found.phase, found.is_connected = "serving", True
    return found


@pytest.fixture
async def address(health: RunnerHealth) -> AsyncIterator[Address]:
    with open_probe_socket("127.0.0.1", 0) as listener:
        assert listener is not None
        host, port = listener.getsockname()
        async with answering_probes(listener, health):
            yield host, port
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)


async def exchange(address: Address, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(sent)
        return await reader.read()
    finally:
        writer.close()


async def is_cut(address: Address, sent: bytes) -> bool:
    """Whether the connection ends without an answer."""
    try:
        return await exchange(address, sent) == b""
    except ConnectionResetError:
        return True


async def ends(reader: asyncio.StreamReader) -> bool:
    """Whether the connection ends without an answer."""
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


async def ask(address: Address, path: str, method: str = "GET") -> tuple[int, dict[str, str]]:
    """The status and the checks."""
    sent = f"{method} {path} HTTP/1.1\r\nHost: runner\r\nConnection: close\r\n\r\n".encode()
    head, _, body = (await exchange(address, sent)).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    report = msgspec.json.decode(body)
    status = int(head.split()[1])
    assert (report["status"] == "ok") is (status == 200)
    return status, report["checks"]


async def test_a_runner_that_serves_is_live_and_ready(address: Address) -> None:
    assert await ask(address, "/health/live") == (200, {"event loop": "ok"})
    assert await ask(address, "/health/ready?of=kubelet") == (
        200,
        {"runner": "ok", "event loop": "ok", "broker": "ok"},
    )
    assert (await ask(address, "/health"))[0] == 404
    assert (await ask(address, "/health/live", "POST"))[0] == 405


@pytest.mark.parametrize("phase", ["starting", "draining"])
async def test_one_that_starts_or_drains_is_live_and_not_ready(
    address: Address, health: RunnerHealth, phase: probes.Phase
) -> None:
    health.phase = phase
    assert (await ask(address, "/health/live"))[0] == 200
    status, checks = await ask(address, "/health/ready")
    assert (status, checks["runner"]) == (503, phase)


async def test_one_whose_broker_is_away_is_not_started_again(address: Address, health: RunnerHealth) -> None:
    health.is_connected = False
    assert (await ask(address, "/health/live"))[0] == 200
    status, checks = await ask(address, "/health/ready")
    assert (status, checks["broker"]) == (503, "the broker cannot be reached")


async def test_a_blocked_loop_is_first_not_ready_and_then_not_live(
    address: Address, health: RunnerHealth
) -> None:
    health.loop_seen(11)
    assert (await ask(address, "/health/live"))[0] == 200
    assert (await ask(address, "/health/ready"))[1]["event loop"] == "blocked for 11 s"
    health.loop_seen(61)
    assert await ask(address, "/health/live") == (503, {"event loop": "blocked for 61 s"})


def test_a_watch_that_looks_no_more_counts_as_blocked(
    health: RunnerHealth, monkeypatch: pytest.MonkeyPatch
) -> None:
    health.loop_seen(0)
    since_s = monotonic()
    monkeypatch.setattr(probes, "monotonic", lambda: since_s + 61)
    assert health.check_live()["event loop"].startswith("blocked")


async def test_what_is_no_probe_is_cut_off(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long a head, and one that never ends; meanwhile others are answered."""
    monkeypatch.setattr(probes, "PROBE_S_MAX", 0.2)
    assert await is_cut(address, b"GET /" + b"a" * 8_192)
    assert await is_cut(address, b"GET /health/live HTTP/1.1\r\n")
    assert (await ask(address, "/health/live"))[0] == 200


async def test_connections_have_a_bound(address: Address) -> None:
    """One more than that ends the oldest and is answered; the others are kept."""
    held = [await asyncio.open_connection(*address) for _ in range(probes.PROBES_MAX)]
    try:
        for _, writer in held:
            writer.write(b"GET ")
        assert (await ask(address, "/health/live"))[0] == 200
        (oldest, _), (second, writer) = held[:2]
        assert await ends(oldest)
        writer.write(b"/health/live HTTP/1.1\r\n\r\n")
        assert (await second.read()).startswith(b"HTTP/1.1 200")
    finally:
        for _, writer in held:
            writer.close()


def test_a_port_in_use_is_named() -> None:
    with (
        open_probe_socket("127.0.0.1", 0) as first,
        open_probe_socket("127.0.0.1", None) as none,
    ):
        assert first is not None
        assert none is None
        port = first.getsockname()[1]
        with (
            pytest.raises(Invalid, match=rf"probes cannot be answered at 127.0.0.1:{port} \(Address already"),
            open_probe_socket("127.0.0.1", port),
        ):
            pass
    with pytest.raises(Invalid, match="HEALTH_PORT is 0 to 65535"), open_probe_socket("127.0.0.1", 70_000):
        pass
