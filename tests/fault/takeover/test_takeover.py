"""Two runners on one run: the log has one writer at a time, and the fenced runner stops without output.

The first runner sends no heartbeats but still works: a long pause, a broken network, a stopped virtual
machine. `tests/fault/fleet/test_processes.py` kills real runners.
"""

import asyncio
from typing import Any

import pytest

from rejoin_adapters.store_types import Claim
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.worker.configuration import WorkerSignals
from tests.support.faults.takeover import (
    ACK_WAIT_S,
    SILENT_RUNNER,
    always_silent,
    assert_all_agree,
    fold_records,
    has_no_runs,
    logged_event_count,
    post_in_background,
)
from tests.support.models.scripted_models import GatedModel, SingleCallModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log, wait_until


@pytest.mark.feature("F71", "F84", "F85")
@pytest.mark.parametrize("goes_on", ["while the second works", "after the second has ended"])
async def test_a_paused_runner_that_goes_on_writes_nothing_more(system: LocalSystem, goes_on: str) -> None:
    base = await system.gateway()
    gates = asyncio.Semaphore(5), asyncio.Semaphore(3)
    first = await system.runner(
        [Agent(name=system.agent, model=GatedModel(gates[0], 10), text_interval_s=0)], **SILENT_RUNNER
    )
    session = system.fresh("s")
    async with post_in_background(system, base, session, "hello") as post:

        async def written() -> bool:
            return await logged_event_count(system, session) >= 5 + 5

        await wait_until(written, "the first runner's five words")
        model = GatedModel(gates[1], 8)
        await system.runner([Agent(name=system.agent, model=model, text_interval_s=0)], ack_wait_s=ACK_WAIT_S)
        await wait_until(lambda: model.asked, "the takeover")
        if goes_on == "while the second works":
            for _ in range(5):
                gates[0].release()
            await wait_until(lambda: has_no_runs(first), "the first runner's end")
        for _ in range(5):
            gates[1].release()
    records = await assert_all_agree(system, base, session, post.result())
    types = [chunk["type"] for chunk in post.result().chunks]
    assert types.count("reset-step") == types.count("start") == types.count("finish") == 1
    assert "".join(part.get("text", "") for part in fold_records(records)["parts"]) == " 0 1 2 3 4 5 6 7"
    assert {record.head.attempt for record in records} == {1, 2}
    for _ in range(5):
        gates[0].release()
    await wait_until(lambda: has_no_runs(first), "the first runner's end")
    assert await read_log(system.nats_url, post.result().headers["x-workflow-run-id"]) == records


@pytest.mark.feature("F85")
async def test_a_runner_that_paused_between_claim_and_log_writes_nothing(
    system: LocalSystem,
) -> None:
    """Its attempt is known to the database only."""
    base = await system.gateway()
    claimed, go = asyncio.Event(), asyncio.Event()

    async def pause(claim: Claim) -> None:
        del claim
        claimed.set()
        await go.wait()

    signals = WorkerSignals(is_silent=always_silent, before_takeover=pause)
    agent = Agent(name=system.agent, model=DemoModel())
    first = await system.runner([agent], **(SILENT_RUNNER | {"signals": signals}))
    session = system.fresh("s")
    async with post_in_background(system, base, session, "count 20") as post:
        await claimed.wait()
        await system.runner(ack_wait_s=ACK_WAIT_S)
    records = await assert_all_agree(system, base, session, post.result())
    assert {record.head.attempt for record in records} == {2}
    go.set()
    await wait_until(lambda: has_no_runs(first), "the first runner's end")
    assert await read_log(system.nats_url, post.result().headers["x-workflow-run-id"]) == records


@pytest.mark.feature("F85")
@pytest.mark.parametrize("pause_ms", [0, 1])
async def test_a_runner_that_writes_without_a_pause_is_fenced(system: LocalSystem, pause_ms: int) -> None:
    """It appends without a pause while the second runner tries to take over, as often as necessary."""
    base = await system.gateway()
    first = await system.runner(**SILENT_RUNNER)
    session = system.fresh("s")
    count = 100_000 if pause_ms == 0 else 10_000  # more than it writes before the second one has the run
    async with post_in_background(system, base, session, f"count {count} every {pause_ms} ms") as post:

        async def written() -> bool:
            return await logged_event_count(system, session) >= 20

        await wait_until(written, "the first runner's words")
        await system.runner(
            [Agent(name=system.agent, model=GatedModel(asyncio.Semaphore(1_000), 10))], ack_wait_s=ACK_WAIT_S
        )
    records = await assert_all_agree(system, base, session, post.result())
    first_of_all, *others = sorted({record.head.attempt for record in records})
    assert (first_of_all, bool(others)) == (1, True)
    await wait_until(lambda: has_no_runs(first), "the first runner's end")


@pytest.mark.feature("F88")
@pytest.mark.parametrize(("on_crash", "runs"), [("retry", 2), ("report", 1)])
async def test_a_call_that_was_running_is_repeated_or_reported_as_its_tool_says(
    system: LocalSystem, on_crash: Any, runs: int
) -> None:
    """With the same idempotency key, or never again."""
    keys: list[str] = []
    first_only = asyncio.Semaphore(1)

    @tool(on_crash=on_crash)
    async def pay(context: ToolContext[None], amount: int) -> str:
        """Pay."""
        keys.append(context.idempotency_key)
        if not first_only.locked():
            await first_only.acquire()
            await asyncio.Event().wait()
        return f"{amount} paid"

    agent = Agent(name=system.agent, model=SingleCallModel("pay", {"amount": 3}), tools=[pay])
    base = await system.gateway()
    await system.runner([agent], **SILENT_RUNNER)
    session = system.fresh("s")
    async with post_in_background(system, base, session, "hello") as post:
        await wait_until(lambda: keys, "the call")
        await system.runner([agent], ack_wait_s=ACK_WAIT_S)
    await assert_all_agree(system, base, session, post.result())
    assert keys == [f"{post.result().headers['x-workflow-run-id']}:call_0"] * runs
    results = [chunk for chunk in post.result().chunks if chunk["type"].startswith("tool-output")]
    assert len(results) == 1
    assert results[0].get("output") == ("3 paid" if on_crash == "retry" else None)
    assert ("unknown" in results[0].get("errorText", "")) is (on_crash == "report")
