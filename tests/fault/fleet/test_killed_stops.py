"""Processes are killed around a stop. What was stored holds: the run is over, its history is right, and the
session answers again.
"""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import psutil
import pytest

from tests.support.clients.reconnecting_client import DONE, split_frames
from tests.support.faults.lossy_broker import LossyBrokerUrl, open_lossy_broker
from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST, Command, Dev, free_ports, rejoin_dev

OVER_S_MAX = 25.0
"""Sweep, takeover and a busy machine."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    async with rejoin_dev(tmp_path_factory.mktemp("dev")) as one:
        yield one


class Chat:
    """A session, asked through the second gateway, and what the database says of its run."""

    def __init__(self, http: aiohttp.ClientSession, database: "asyncpg.Connection[Any]", dev: Dev) -> None:
        self.http, self.database, self.base = http, database, dev.gateways[1]
        self.id = f"s-{secrets.token_hex(6)}"

    async def post(self, path: str, body: Any = None, base: str | None = None) -> Any:
        async with self.http.post(f"{base or self.base}{path}", json=body) as response:
            assert response.status == 200
            return await response.json()

    async def begin(self, text: str, until: bytes) -> None:
        """Send a message, and read its answer as far as an event with these bytes."""
        async with self.http.post(f"{self.base}/api/chat", json=self._body(text)) as response:
            async for line in response.content:
                if until in line:
                    return
        pytest.fail(f"no {until!r}")

    def _body(self, text: str) -> Any:
        message = {"id": secrets.token_hex(8), "role": "user", "parts": [{"type": "text", "text": text}]}
        return {"id": self.id, "messages": [message], "trigger": "submit-message"}

    async def stop(self, base: str | None = None) -> Any:
        return await self.post(f"/api/chat/{self.id}/stop", base=base)

    async def column(self, name: str) -> Any:
        query = f"select {name} from runs where session_id = $1 order by id limit 1"  # noqa: S608
        return await self.database.fetchval(query, self.id)

    async def runner(self) -> psutil.Process:
        """The process that executes the run."""
        return psutil.Process(int((await self.column("runner")).rpartition("-")[2]))

    async def stopped(self) -> bool:
        return await self.column("interrupted_at") is not None

    async def history(self) -> list[Any]:
        async with self.http.get(f"{self.base}/api/agents/demo/{self.id}") as response:
            messages: list[Any] = (await response.json())["messages"]
            return messages

    async def is_over(self) -> bool:
        return await self.column("ended_at") is not None

    async def assert_stopped(self, parts: set[tuple[str, str | None]]) -> None:
        """The run is cancelled, its log is whole, its answer ends there, and the next message is answered."""
        await wait_until(self.is_over, "the run's end", OVER_S_MAX)
        assert await self.column("state") == "cancelled"
        async with self.http.get(f"{self.base}/api/chat/{self.id}/stream?startIndex=0") as response:
            frames = split_frames(await response.read())
        assert frames[-1] == DONE
        assert sum(b'"type":"abort"' in frame for frame in frames) == 1
        [_, answer] = await self.history()
        assert {(part["type"], part.get("state")) for part in answer["parts"]} - {
            ("step-start", None)
        } == parts
        async with self.http.post(f"{self.base}/api/chat", json=self._body("count 2")) as response:
            assert split_frames(await response.read())[-1] == DONE
        assert [part.get("text") for part in (await self.history())[-1]["parts"]][-1] == "1 2"


@pytest.fixture
async def chat(dev: Dev) -> AsyncIterator[Chat]:
    await dev.up()
    await wait_until(lambda: len(dev.command.living("runner")) == 2, "two runners")
    connection = await asyncpg.connect(dev.database_url)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http:
            yield Chat(http, connection, dev)
    finally:
        await connection.close()


TEXT: set[tuple[str, str | None]] = {("text", "done")}


@pytest.mark.feature("F74", "F84")
async def test_a_runner_that_never_learns_of_the_stop_is_killed(chat: Chat) -> None:
    """It stands still when the stop is stored, and dies so: another one ends the run."""
    await chat.begin("count 2000 every 20 ms", b"text-delta")
    victim = await chat.runner()
    victim.suspend()
    try:
        assert (await chat.stop())["interrupted"]
    finally:
        victim.send_signal(signal.SIGKILL)
    await chat.assert_stopped(TEXT)


@pytest.mark.feature("F74", "F84")
@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.02])
async def test_a_runner_is_killed_while_it_stops(chat: Chat, after_s: float) -> None:
    """Before, in or behind what it writes about the stop."""
    await chat.begin("count 2000 every 20 ms", b"text-delta")
    victim = await chat.runner()
    assert (await chat.stop())["interrupted"]
    await asyncio.sleep(after_s)
    victim.send_signal(signal.SIGKILL)
    await chat.assert_stopped(TEXT)


@asynccontextmanager
async def third_gateway(dev: Dev, place: Path) -> AsyncIterator[tuple[str, Command, LossyBrokerUrl]]:
    """A gateway of its own process, whose messages to the broker can be lost."""
    port = free_ports(1)
    async with open_lossy_broker(dev.nats_url, drop=0) as broker:
        variables = {
            "REJOIN_NATS_URL": broker,
            "REJOIN_DATABASE_URL": dev.database_url,
            "REJOIN_DEFAULT_AGENT": "demo",
            "REJOIN_PORT": str(port),
            "REJOIN_ALLOW_ANONYMOUS": "true",
        }
        async with await Command.start(place / "gateway", "gateway", variables=variables) as command:
            await command.says('"listening"')
            yield f"http://{HOST}:{port}", command, broker


@pytest.mark.feature("F74", "F82")
@pytest.mark.parametrize(
    ("text", "until", "parts"),
    [
        ("count 2000 every 20 ms", b"text-delta", TEXT),
        ("delete notes.txt", b"[DONE]", {("tool-delete", "output-denied")}),
    ],
    ids=["running", "suspended"],
)
@pytest.mark.parametrize("published", [False, True], ids=["before the publish", "after it"])
async def test_a_gateway_that_has_stored_a_stop_is_killed(
    chat: Chat, dev: Dev, tmp_path: Path, text: str, until: bytes, parts: set[Any], published: bool
) -> None:
    """The stop is stored, and what the gateway tells the broker then is lost with it, or is not."""
    await chat.begin(text, until)
    async with third_gateway(dev, tmp_path) as (base, command, broker):
        if not published:
            broker.mute()
        stopping = asyncio.create_task(chat.stop(base))
        if published:
            assert (await stopping)["interrupted"]
        await wait_until(chat.stopped, "the stored stop")
        command.signal(signal.SIGKILL)
        with suppress(aiohttp.ClientError):
            await stopping
        await command.end()
        await chat.assert_stopped(parts)
