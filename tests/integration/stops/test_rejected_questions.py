"""Who interrupts rejects the questions that wait, in every family; who only sends leaves them open."""

import asyncio
from typing import Any

import pytest

from rejoin_runner.run.executor import INTERRUPTED
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import FAMILIES, SESSION, ApiClient, Family, Json, event_types
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.models.agent_teams import Calls, model_requests, scripted_agent
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import read_log, wait_until

WAYS: list[Json] = [{"interruptIfStreaming": True}, {"whenBusy": "interrupt"}]


async def ask(client: ApiClient, family: Family, session: str, text: str, **options: Any) -> Answer:
    path = family.path.format(agent=client.system.agent, session=session)
    return await client.post(path, family.body(session, text, None) | options)


async def state_of(client: ApiClient, run: str) -> str:
    found: str = (await client.get(f"/run/api/executions/{run}")).json["state"]
    return found


async def pending(client: ApiClient, session: str) -> list[Json]:
    found: list[Json] = (await client.get(f"/run/v1/conversations/{session}/pending-approvals")).json[
        "pendingApprovals"
    ]
    return found


async def assert_rejected(client: ApiClient, session: str, run: str, approval: str) -> None:
    """The run is cancelled, its call is denied, and its approval can no longer be decided."""
    assert await state_of(client, run) == "cancelled"
    assert await pending(client, session) == []
    [part] = [
        part
        for message in await client.messages(session)
        for part in message["parts"]
        if part["type"] == "tool-delete"
    ]
    assert (part["state"], part["approval"]["reason"]) == ("output-denied", INTERRUPTED)
    late = await client.post(f"/run/api/executions/{run}/approvals/call_1", {"approved": True})
    assert (late.status, late.json["detail"]) == (409, "the approval is cancelled already")
    threads = {"runId": approval, "threadId": session, "approved": True}
    assert (await client.post("/api/chat/approve", threads)).status == 409
    assert (await client.post("/api/chat/approve", threads | {"runId": run})).status == 404


@pytest.mark.feature("F60", "F75", "F96")
@pytest.mark.parametrize("family", FAMILIES, ids=str)
@pytest.mark.parametrize("options", WAYS, ids=str)
async def test_a_message_that_interrupts_rejects_before_it_is_answered(
    system: LocalSystem, family: Family, options: Json
) -> None:
    """The rejection is in the log before the first event of the new answer."""
    await system.runner()
    client = ApiClient(system, await system.gateway())
    session = client.session()
    asked = await ask(client, family, session, "delete notes.txt")
    run = asked.headers["x-workflow-run-id"]
    approval = next(one["approvalId"] for one in asked.chunks if "approvalId" in one)
    answer = await ask(client, family, session, "count 2", **options)
    assert (answer.text, answer.complete) == ("1 2", True)
    await assert_rejected(client, session, run, approval)
    rejected, answered = [
        await read_log(system.nats_url, one) for one in (run, answer.headers["x-workflow-run-id"])
    ]
    assert rejected[-1].seq < answered[0].seq
    assert b'"abort"' in b"".join(record.payload for record in rejected)
    assert [one.split(":")[0] for one in await client.texts(session)] == ["user", "assistant"] * 2


@pytest.mark.feature("F60", "F96")
@pytest.mark.parametrize(
    "path",
    [
        "/api/agents/{agent}/{session}/interrupt",
        "/api/chat/{session}/stop",
        "/run/api/executions/{run}/interrupt",
    ],
)
async def test_an_interrupt_rejects(system: LocalSystem, path: str) -> None:
    await system.runner()
    client = ApiClient(system, await system.gateway())
    session = client.session()
    asked = await client.say(SESSION, session, "delete notes.txt")
    run = asked.headers["x-workflow-run-id"]
    approval = next(one["approvalId"] for one in asked.chunks if "approvalId" in one)
    said = await client.post(path.format(agent=system.agent, session=session, run=run))
    assert said.json == {"success": True, "interrupted": True}
    answer = await client.say(SESSION, session, "count 2")
    assert answer.text == "1 2"
    await assert_rejected(client, session, run, approval)


@pytest.mark.feature("F60", "F62", "F96")
async def test_a_rejection_survives_a_crash_of_its_runner(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt is stored: the next runner rejects first and answers then."""
    worker = await system.runner()
    client, other = [ApiClient(system, await system.gateway()) for _ in range(2)]
    session = client.session()
    asked = await client.say(SESSION, session, "delete notes.txt")
    run = asked.headers["x-workflow-run-id"]
    approval = next(one["approvalId"] for one in asked.chunks if "approvalId" in one)
    worker.drain()
    crash_at_append(monkeypatch, word=b'"abort"')
    await system.runner(retry_delay_s=0.05)
    answer = await ask(other, SESSION, session, "count 2", interruptIfStreaming=True)
    assert answer.text == "1 2"
    await assert_rejected(client, session, run, approval)
    rejected, answered = [
        await read_log(system.nats_url, one) for one in (run, answer.headers["x-workflow-run-id"])
    ]
    assert rejected[-1].seq < answered[0].seq
    assert b"".join(record.payload for record in rejected).count(b'"abort"') == 1


@pytest.mark.feature("F86", "F96")
async def test_an_approval_and_an_interrupting_message_have_one_winner(system: LocalSystem) -> None:
    """Either the call is approved first and its run is then stopped, or the approval is refused."""
    ran: list[int] = []

    @tool(needs_approval=True)
    async def act() -> str:
        """Does something."""
        ran.append(1)
        return "done"

    one = scripted_agent(system.agent, {"go": [[Calls("act")], ["{}"]], "hi": [["Hello."]]}, tools=[act])
    await system.runner([one])
    client, other = [ApiClient(system, await system.gateway()) for _ in range(2)]
    for _ in range(8):
        session = client.session()
        ran.clear()
        run = (await client.say(SESSION, session, "go")).headers["x-workflow-run-id"]
        async with asyncio.TaskGroup() as group:
            approving = group.create_task(
                other.post(f"/run/api/executions/{run}/approvals/call_0_0", {"approved": True})
            )
            sent = group.create_task(ask(client, SESSION, session, "hi", interruptIfStreaming=True))
        assert sent.result().text == "Hello."
        assert await pending(client, session) == []
        assert approving.result().status in {200, 409}
        if approving.result().status == 409:
            assert (ran, await state_of(client, run)) == ([], "cancelled")


@pytest.mark.feature("F96")
async def test_a_plain_message_leaves_the_question_open_and_the_model_knows(system: LocalSystem) -> None:
    """The tool runs once, after the approval, although another message was answered meanwhile."""
    ran: list[int] = []

    @tool(needs_approval=True)
    async def act() -> str:
        """Does something."""
        ran.append(1)
        return "done"

    one = scripted_agent(system.agent, {"go": [[Calls("act")], ["{}"]], "hi": [["Hello."]]}, tools=[act])
    await system.runner([one])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    run = (await client.say(SESSION, session, "go")).headers["x-workflow-run-id"]
    assert (await client.say(SESSION, session, "hi")).text == "Hello."
    [call] = [part for part in model_requests(one)[-1].history[1]["parts"] if part["type"] == "tool-act"]
    assert call["state"] == "approval-requested"
    assert len(await pending(client, session)) == 1
    await client.post(f"/run/api/executions/{run}/approvals/call_0_0", {"approved": True})

    async def over() -> bool:
        return await state_of(client, run) == "completed"

    await wait_until(over, "the end of the run")
    assert ran == [1]


async def test_a_fork_s_question_is_nobody_s_to_answer(system: LocalSystem) -> None:
    """The model learns that the call did not run, and may make it again."""

    @tool(needs_approval=True)
    async def act() -> str:
        """Does something."""
        return "done"

    one = scripted_agent(system.agent, {"go": [[Calls("act")], ["{}"]], "hi": [["Hello."]]}, tools=[act])
    await system.runner([one])
    client = ApiClient(system, await system.gateway())
    session, fork = client.session(), client.session()
    await client.say(SESSION, session, "go")
    await client.say(SESSION, session, "hi", id="m2")
    forked = await client.post(f"/api/threads/{session}/fork", {"messageId": "m2", "id": fork})
    id = forked.json.get("id") or forked.json["thread"]["id"]
    answer = await client.say(SESSION, id, "hi")
    assert "abort" not in event_types(answer)
    [call] = [part for part in model_requests(one)[-1].history[1]["parts"] if part["type"] == "tool-act"]
    assert call["state"] == "output-denied"
