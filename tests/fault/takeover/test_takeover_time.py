"""How soon a killed runner's run continues, and that a busy or blocked runner keeps its runs.

`REJOIN_KILLS=20` is the full number of kills; the figures are printed below the results.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from statistics import median

import aiohttp
import asyncpg
import psutil
import pytest

from rejoin_adapters.jetstream.setup import ACK_WAIT_S
from tests.support.agents.poison import CALLS
from tests.support.clients.reconnecting_client import split_frames
from tests.support.system.observation import RecordMeasurement, wait_until
from tests.support.system.processes import Dev, rejoin_dev

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("REJOIN_KILLS", "3"))
CHATS = int(os.environ.get("REJOIN_CHATS", "60"))
TAKEOVER_S_MAX = 5 * ACK_WAIT_S
"""However busy the machine is."""
WORDS = 60
BLOCKED_S = 3


@pytest.fixture(scope="module")
async def dev(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Dev]:
    directory = tmp_path_factory.mktemp("dev")
    (directory / "calls").touch()
    settings = {name: value for name, value in os.environ.items() if name == "REJOIN_ACK_WAIT_S"}
    variables = {CALLS: str(directory / "calls"), **settings}
    async with rejoin_dev(directory, "tests.support.agents.poison:agent", variables=variables) as one:
        yield one


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=90)
    ) as session:
        yield session


def chat(session: str, text: str) -> dict[str, object]:
    message = {"id": f"u-{session}", "role": "user", "parts": [{"type": "text", "text": text}]}
    return {"id": session, "messages": [message], "trigger": "submit-message"}


async def fetch(dev: Dev, query: str, *arguments: object) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dev.database_url)
    try:
        rows: list[asyncpg.Record] = await connection.fetch(query, *arguments)
        return rows
    finally:
        await connection.close()


async def silence_after_kill(dev: Dev, http: aiohttp.ClientSession, session: str) -> float:
    """Kill the runner of a run in the middle of its text. The longest time without an event."""
    clock = asyncio.get_running_loop().time
    await wait_until(lambda: len(dev.command.living("runner")) == 2, "two runners")
    times, raw, killed = [], b"", False
    async with http.post(f"{dev.gateways[0]}/api/chat", json=chat(session, f"count {WORDS}")) as response:
        while received := await response.content.readany():
            raw += received
            times.append(clock())
            if not killed and len(split_frames(raw)) > 15:
                [row] = await fetch(dev, "select runner from runs where session_id = $1", session)
                psutil.Process(int(row["runner"].rpartition("-")[2])).kill()
                killed = True
    assert raw.rstrip().endswith(b"[DONE]")
    return max(later - earlier for earlier, later in itertools.pairwise(times))


async def test_the_run_of_a_killed_runner_continues_after_about_an_ack_wait(
    dev: Dev, http: aiohttp.ClientSession, record_measurement: RecordMeasurement
) -> None:
    silences = sorted([await silence_after_kill(dev, http, f"kill-{number}") for number in range(KILLS)])
    record_measurement(
        f"{KILLS} kills, ack wait {os.environ.get('REJOIN_ACK_WAIT_S', ACK_WAIT_S)} s: "
        f"p50 {median(silences):.2f} s, longest {silences[-1]:.2f} s"
    )
    assert silences[-1] < TAKEOVER_S_MAX


async def test_a_busy_and_a_blocked_runner_keep_their_runs(
    dev: Dev, http: aiohttp.ClientSession, record_measurement: RecordMeasurement
) -> None:
    """One tool blocks each loop for three ack waits. Every run ends in its first attempt."""
    await wait_until(lambda: len(dev.command.living("runner")) == 2, "two runners")

    async def ask(session: str, text: str) -> bytes:
        async with http.post(f"{dev.gateways[0]}/api/chat", json=chat(session, text)) as response:
            return await response.read()

    async with asyncio.TaskGroup() as group:
        chats = [group.create_task(ask(f"busy-{number}", f"count {WORDS}")) for number in range(CHATS)]
        for number in range(3):
            group.create_task(ask(f"busy-block-{number}", f"block {BLOCKED_S}"))
    assert all(task.result().rstrip().endswith(b"[DONE]") for task in chats)
    rows = await fetch(dev, "select attempt, state from runs where session_id like 'busy-%'")
    taken_over = sum(row["attempt"] > 1 for row in rows)
    record_measurement(f"{CHATS} chats beside blocked loops: {taken_over} taken over")
    assert (len(rows), taken_over) == (CHATS + 3, 0)
    assert {row["state"] for row in rows} == {"completed"}
