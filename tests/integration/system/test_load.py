"""Many runs and events at once: nothing is lost, and order is kept. No test here is about time."""

import asyncio

import pytest

from rejoin_gateway.auth.authenticator import ANONYMOUS
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_runner.agent.agent import Agent
from tests.support.clients.reconnecting_client import split_frames, without_comments
from tests.support.models.scripted_models import BurstModel
from tests.support.system.local_system import Answer, LocalSystem


def counted(last: int) -> str:
    return " ".join(str(number) for number in range(1, last + 1))


async def test_two_thousand_events_a_second_arrive_complete_and_in_order(system: LocalSystem) -> None:
    """4,000 events, twenty every 10 ms, to two viewers on each of two gateways."""
    bases = [await system.gateway(), await system.gateway()]
    model = BurstModel(pieces=4_000, size=1, burst=20, pause_s=0.01)
    await system.runner([Agent(name=system.agent, model=model, text_interval_s=0)])
    session = system.fresh("s")
    post = system.http.post(f"{bases[0]}/api/chat", json=system.chat(session, "hello"))
    async with post as response, asyncio.TaskGroup() as group:
        viewers = [
            group.create_task(system.get(f"{base}/api/chat/{session}/stream")) for base in [*bases, *bases]
        ]
        sent = await Answer.of(response)
    assert sent.complete
    assert [int(number) for number in sent.text.split()] == list(range(4_000))
    assert {without_comments(viewer.result().raw) for viewer in viewers} == {without_comments(sent.raw)}
    numbers = [int(block.split(b"\n")[0].rpartition(b"-")[2]) for block in split_frames(sent.raw)[:-1]]
    assert numbers == sorted(set(numbers))  # what only some are shown has numbers too


async def test_a_model_without_a_pause_fills_its_log_in_order(system: LocalSystem) -> None:
    """It emits more events than the queue holds, so the model waits for the log. The other run continues."""
    base = await system.gateway()
    await system.runner()
    async with asyncio.TaskGroup() as group:
        posts = [
            group.create_task(system.post(base, system.chat(system.fresh("s"), f"count {last}")))
            for last in (10_000, 100)
        ]
    for post, last in zip(posts, (10_000, 100), strict=True):
        assert post.result().complete
        assert post.result().text == counted(last)


@pytest.mark.slow
async def test_two_hundred_runs_at_once_are_each_complete_and_in_order(system: LocalSystem) -> None:
    """Two gateways, two runners. A fifth of them may be waiting to be accepted, which has a time limit."""
    bases = [await system.gateway(), await system.gateway()]
    for _ in range(2):
        await system.runner(max_concurrent_runs=128, ack_wait_s=60)  # however slow the machine is
    gate = asyncio.Semaphore(40)

    async def ask(base: str) -> Answer:
        async with gate:
            response = await system.http.post(
                f"{base}/api/chat", json=system.chat(system.fresh("s"), "count 50")
            )
        async with response:
            return await Answer.of(response)

    async with asyncio.TaskGroup() as group:
        posts = [group.create_task(ask(bases[number % 2])) for number in range(200)]
    answers = [post.result() for post in posts]
    assert [(answer.status, answer.complete, answer.text) for answer in answers] == [
        (200, True, counted(50))
    ] * 200
    assert len({answer.headers["x-workflow-run-id"] for answer in answers}) == 200


@pytest.mark.slow
@pytest.mark.feature("F85")
async def test_a_hundred_busy_runs_are_taken_over_by_nobody(system: LocalSystem) -> None:
    """A runner that is only busy keeps its runs. They last for longer than the ack wait."""
    base = await system.gateway()
    for _ in range(2):
        await system.runner(max_concurrent_runs=128)
    async with asyncio.TaskGroup() as group:
        for _ in range(100):
            group.create_task(system.post(base, system.chat(system.fresh("s"), "count 40 every 100 ms")))
    listed = await system.apps[0][SERVICE].backend.store.list_runs(ANONYMOUS.owner, limit=1_000)
    attempts = [one.run.attempt for one in listed if one.run.agent == system.agent]
    assert attempts == [1] * 100
