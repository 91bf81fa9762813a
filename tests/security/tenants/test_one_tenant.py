"""What one tenant sends costs others nothing: processes with the default limits, seen from outside."""

import asyncio
import io
import statistics
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import psutil
import pytest
import pytest_asyncio

from rejoin.cli.api_keys import KeyCommands, NewKey
from rejoin.dev.generous_limits import GENEROUS_LIMITS, GENEROUS_RATES
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import KIB, MIB, TEXT_BYTES_MAX
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import RecordMeasurement
from tests.support.system.processes import HOST, Command, free_ports

pytestmark = pytest.mark.slow

PEPPER = "a pepper of some length"
MEMORY_MAX = 512 * MIB
"""The limit of a service in `compose.yaml`."""
EMOJI = "😀"
UNREAD = 1_000
"""Bodies that wait at the same time. Half a body was 256 KB of a gateway's memory each."""


def peak_bytes(process: psutil.Process) -> int:
    """The largest resident set that the process has had."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


class Installation:
    """A gateway and a runner as processes with the default limits."""

    def __init__(self, system: LocalSystem, base: str, gateway: Command, runner: Command) -> None:
        self.system = system
        self.base = base
        self.gateway = gateway
        self.runner = runner

    async def offer_body(self, key: str, opened: list[asyncio.StreamWriter]) -> bytes:
        """Send a third of a body, and no more. Returns the first line of the answer."""
        host, _, port = self.base.removeprefix("http://").partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        opened.append(writer)
        head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nAuthorization: Bearer %b\r\n\r\n"
        writer.write(head % (900 * KIB, key.encode()) + b"x" * 300 * KIB)
        return await reader.readline()

    @property
    def peaks(self) -> dict[str, float]:
        """The largest resident sets, in MiB."""
        services = {"gateway": self.gateway, "runner": self.runner}
        return {name: peak_bytes(one.family()[0]) / MIB for name, one in services.items()}

    async def tenant(self, name: str) -> "Sender":
        """A tenant with a `chat` key."""
        async with await run_store.open_run_store(self.system.database_url, pool_max=1) as store:
            issuer = KeyCommands(
                PostgresApiKeys(store.database), TenantId(self.system.fresh(name)), PEPPER.encode()
            )
            return Sender(self, await issuer.create(NewKey(scopes=(Scope.CHAT,))))


class Sender:
    """A tenant that sends messages."""

    def __init__(self, installation: Installation, key: str) -> None:
        self.key = key
        self._system = installation.system
        self._base = installation.base
        self._headers = {"Authorization": f"Bearer {key}", "x-agent-id": "demo"}

    async def send(self, session: str, text: str, *earlier: str) -> Answer:
        """Send a message after earlier ones; its whole answer."""
        body = self._system.chat(session, text)
        body["messages"] = [*(_user(n, one) for n, one in enumerate(earlier)), *body["messages"]]
        return await self.post(msgspec.json.encode(body))

    async def post(self, body: bytes) -> Answer:
        headers = self._headers | {"Content-Type": "application/json"}
        async with self._system.http.post(
            f"{self._base}/api/chat", data=io.BytesIO(body), headers=headers
        ) as response:
            return await Answer.of(response)

    async def first_event_s(self, text: str) -> float:
        """Seconds from a request to the first event of its answer; the answer is read to its end."""
        began_s = asyncio.get_running_loop().time()
        body = self._system.chat(self._system.fresh("s"), text)
        async with self._system.http.post(
            f"{self._base}/api/chat", json=body, headers=self._headers
        ) as response:
            assert response.status == 200, await response.text()
            await response.content.readany()
            took_s = asyncio.get_running_loop().time() - began_s
            assert (await response.read()).endswith(b"[DONE]\n\n")
        return took_s

    async def begin(self, text: str) -> None:
        """Start a run whose answer nobody reads. A refusal is one of a limit."""
        body = self._system.chat(self._system.fresh("s"), text)
        url = f"{self._base}/api/agents/demo/{body['id']}"
        async with self._system.http.post(url, json=body, headers=self._headers) as response:
            assert response.status in (200, 429), await response.text()

    async def history(self, session: str) -> Any:
        """The session, and how many bytes its JSON has."""
        url = f"{self._base}/api/agents/demo/{session}"
        async with self._system.http.get(url, headers=self._headers) as response:
            raw = await response.read()
        return msgspec.json.decode(raw), len(raw)


def _user(number: int, text: str) -> dict[str, Any]:
    return {"id": f"old-{number}", "role": "user", "parts": [{"type": "text", "text": text}]}


@pytest_asyncio.fixture
async def installation(system: LocalSystem, tmp_path: Path) -> AsyncIterator[Installation]:
    port = free_ports(1)
    own = {name: value for name, value in system.variables().items() if not _is_limit(name)}
    more = {"REJOIN_PORT": str(port), "REJOIN_API_KEY_PEPPER": PEPPER, "REJOIN_LOG_FORMAT": "json"}
    async with AsyncExitStack() as stack:
        start = Command.start
        gateway = await start(tmp_path / "gateway", "gateway", variables=own | more)
        runner = await start(tmp_path / "runner", "runner", "--demo", variables=own)
        for command, word in ((gateway, "listening"), (runner, "serving")):
            await stack.enter_async_context(command)
            await command.says(word)
        yield Installation(system, f"http://{HOST}:{port}", gateway, runner)


def _is_limit(variable: str) -> bool:
    return variable.removeprefix("REJOIN_").lower() in {**GENEROUS_LIMITS, **GENEROUS_RATES}


async def test_messages_of_the_largest_size_leave_processes_and_other_tenants_alone(
    installation: Installation, record_measurement: RecordMeasurement
) -> None:
    """A1: five messages of 16 MB, then as many large sessions as one tenant gets, beside eight runs."""
    attacker, other = await installation.tenant("attacker"), await installation.tenant("other")
    huge = await asyncio.gather(*(attacker.send(f"huge-{n}", EMOJI + "x" * (16 * MIB)) for n in range(5)))
    assert {answer.status for answer in huge} <= {400, 503}
    assert 400 in {answer.status for answer in huge}
    text = EMOJI + "x" * (TEXT_BYTES_MAX - len(EMOJI.encode()))
    async with asyncio.TaskGroup() as group:
        large = [
            group.create_task(attacker.send(f"large-{n}", "count 3", text, text, text)) for n in range(16)
        ]
        mine = [group.create_task(other.send(f"mine-{n}", "count 5")) for n in range(8)]
    assert all(one.result().complete for one in mine)
    assert all(one.result().text.split() == ["1", "2", "3", "4", "5"] for one in mine)
    answers = [one.result() for one in large]
    assert {answer.status for answer in answers} <= {200, 503}
    assert any(answer.complete for answer in answers)
    assert all(answer.complete for answer in answers if answer.status == 200)
    peaks = installation.peaks
    record_measurement(f"peak memory beside the attack: {peaks}")
    assert max(peaks.values()) < MEMORY_MAX / MIB


@pytest.mark.parametrize("authenticated", [True, False])
async def test_bodies_that_wait_for_their_turn_are_not_held(
    installation: Installation, record_measurement: RecordMeasurement, authenticated: bool
) -> None:
    """A7: a thousand clients send a third of a body. Those that get no share are refused, and so is whoever
    has no key. The few that have a share have 30 seconds. Then the gateway answers as before.
    """
    sender = await installation.tenant("attacker")
    before, opened = installation.peaks["gateway"], list[asyncio.StreamWriter]()
    key, refusal = (sender.key, b" 503 ") if authenticated else ("none", b" 401 ")
    lines = [asyncio.create_task(installation.offer_body(key, opened)) for _ in range(UNREAD)]
    try:
        for first in islice(asyncio.as_completed(lines), UNREAD * 8 // 10):
            assert refusal in await first
        grown = installation.peaks["gateway"] - before
    finally:
        for line in lines:
            line.cancel()
        for writer in opened:
            writer.close()
    assert (await sender.send("after", "count 3")).complete
    record_measurement(f"{UNREAD} unread bodies, authenticated={authenticated}: {grown:.0f} MiB more")
    assert grown < UNREAD * 128 * KIB / MIB


async def test_the_longest_history_is_read_without_being_held(
    installation: Installation, record_measurement: RecordMeasurement
) -> None:
    """A session grows to its limit, is refused there, and is read eight times at once."""
    sender = await installation.tenant("sender")
    text = EMOJI + "x" * (TEXT_BYTES_MAX - len(EMOJI.encode()) - 10)
    count = 0
    while (answer := await sender.send("long", text)).status == 200:
        count += 1
        assert count < 120
    assert answer.status == 409
    assert "begin a new session" in answer.raw.decode()
    async with asyncio.TaskGroup() as group:
        reads = [group.create_task(sender.history("long")) for _ in range(8)]
    for session, size in (one.result() for one in reads):
        assert size > 48 * MIB
        assert len(session["messages"]) == 2 * count
    peaks = installation.peaks
    record_measurement(f"peak memory beside eight reads of 50 MB: {peaks}")
    assert max(peaks.values()) < MEMORY_MAX / MIB


async def test_three_hundred_slow_runs_of_one_tenant_do_not_delay_anothers_first_event(
    installation: Installation, record_measurement: RecordMeasurement
) -> None:
    """A14, without any setting. The crowd's runs go on for longer than the test measures."""
    attacker, other = await installation.tenant("attacker"), await installation.tenant("other")
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(attacker.begin("count 400 every 100 ms")) for _ in range(300)]
        await asyncio.wait(crowd)
        times = sorted([await other.first_event_s("count 3") for _ in range(50)])
        for one in crowd:
            one.cancel()
    p50, p99 = statistics.median(times), times[-1]
    record_measurement(f"first event beside 300 slow runs of another tenant: p50 {p50:.3f}, p99 {p99:.3f} s")
    assert p99 < 1


async def test_a_tenant_fills_its_own_streams_and_requests_alone(installation: Installation) -> None:
    """Guesses of keys from the same address are refused, and a right key works on."""
    other, http = await installation.tenant("other"), installation.system.http
    assert (await other.send("s", "count 1")).complete
    statuses = [await _guess(http, installation.base, f"rk_{number:012d}.{'x' * 43}") for number in range(60)]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert (await other.send("s", "count 2")).complete


async def _guess(http: aiohttp.ClientSession, base: str, key: str) -> int:
    async with http.get(f"{base}/api/agents", headers={"Authorization": f"Bearer {key}"}) as response:
        return response.status
