"""A session is deleted during its run: the runner stops, and nothing of the session is left."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from structlog.testing import capture_logs

from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_protocol.ids import RunId, SessionId
from rejoin_runner.agent.agent import Agent
from tests.support.models.scripted_models import GatedModel
from tests.support.system.local_system import LocalSystem, read_frames
from tests.support.system.observation import read_log, wait_until

OWNER = ANONYMOUS.owner


@pytest.fixture
async def store(system: LocalSystem) -> AsyncIterator[PostgresRunStore]:
    async with await run_store.open_run_store(system.database_url, pool_max=2) as one:
        yield one


@pytest.mark.parametrize("goes_on", [False, True], ids=["waits for its model", "writes on"])
async def test_a_runner_whose_session_is_deleted_stops_silently_and_the_log_goes(
    system: LocalSystem, store: PostgresRunStore, goes_on: bool
) -> None:
    """Its next append or its next word to the database is refused; no other runner takes the run."""
    base, session = await system.gateway(), SessionId(system.fresh("s"))
    gate = asyncio.Semaphore(3)
    with capture_logs() as logs:
        worker = await system.runner(
            [Agent(name=system.agent, model=GatedModel(gate, 10))], sweep_interval_s=0.1, ack_wait_s=0.5
        )
        async with system.http.post(f"{base}/api/chat", json=system.chat(session, "hello")) as response:
            run = RunId(response.headers["x-workflow-run-id"])
            async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
                pass
            assert await PostgresSessionStore(store.database).delete(OWNER, session) == [run]
            if goes_on:
                for _ in range(7):
                    gate.release()

            async def stopped() -> bool:
                return worker.active_runs == 0 and any(
                    line["event"] == "stale_request" and line.get("run", run) == run for line in logs
                )

            await wait_until(stopped, "the runner's end, and that of the request")

        async def purged() -> bool:
            return run not in await store.logs_to_purge(1000) and not await read_log(system.nats_url, run)

        await wait_until(purged, "the purge")
    assert [line for line in logs if line["log_level"] in {"warning", "error", "critical"}] == []
    assert [
        line["event"] for line in logs if line["event"] in {"run_claimed", "run_fenced", "run_released"}
    ] == [
        "run_claimed",
        "run_fenced",
    ]
    assert await store.current_run(OWNER, session) is None
    assert await store.run_summary(OWNER, run) is None
