"""A session that is deleted while it is answered: its runner stops, and nothing of it is left anywhere."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from rejoin_adapters.postgres import run_store
from rejoin_adapters.postgres.run_store import PostgresRunStore
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_gateway.auth.authenticator import ANYBODY
from rejoin_protocol.ids import RunId, SessionId
from rejoin_runner.agent.agent import Agent
from structlog.testing import capture_logs

from tests.support.observe import stored, until
from tests.support.rig import Rig, read_frames
from tests.support.scripted_models import Gated

OWNER = ANYBODY.owner


@pytest.fixture
async def store(rig: Rig) -> AsyncIterator[PostgresRunStore]:
    async with await run_store.open_run_store(rig.database_url, pool_max=2) as one:
        yield one


@pytest.mark.parametrize("goes_on", [False, True], ids=["waits for its model", "writes on"])
async def test_a_runner_whose_session_is_deleted_stops_silently_and_the_log_goes(
    rig: Rig, store: PostgresRunStore, goes_on: bool
) -> None:
    """Its next append or its next word to the database is refused; no other runner takes the run."""
    base, session = await rig.gateway(), SessionId(rig.fresh("s"))
    gate = asyncio.Semaphore(3)
    with capture_logs() as logs:
        worker = await rig.runner(
            [Agent(name=rig.agent, model=Gated(gate, 10))], sweep_interval_s=0.1, ack_wait_s=0.5
        )
        async with rig.http.post(f"{base}/api/chat", json=rig.chat(session, "hello")) as response:
            run = RunId(response.headers["x-workflow-run-id"])
            async for _ in read_frames(response, lambda frame: b"text-delta" in frame.data):
                pass
            assert await PostgresSessionStore(store.database).delete(OWNER, session) == [run]
            if goes_on:
                for _ in range(7):
                    gate.release()

            async def stopped() -> bool:
                return not worker._executions and any(
                    line["event"] == "stale_request" and line.get("run", run) == run for line in logs
                )

            await until(stopped, "the runner's end, and that of the request")

        async def purged() -> bool:
            return run not in await store.purge_due(1000) and not await stored(rig.nats_url, run)

        await until(purged, "the purge")
    assert [line for line in logs if line["log_level"] in {"warning", "error", "critical"}] == []
    assert [line["event"] for line in logs if line["event"] in {"claimed", "fenced", "run_released"}] == [
        "claimed",
        "fenced",
    ]
    assert await store.current(OWNER, session) is None
    assert await store.listed_run(OWNER, run) is None
