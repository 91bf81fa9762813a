"""A run replayed from one of its steps: a new run, in a fork, that begins with the steps before it."""

from collections import Counter
from typing import Any

import pytest

from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.store_types import Limits, Owner
from rejoin_gateway.core.message_input import new_session_id
from rejoin_protocol.ids import MessageId, RunId, SessionId, TenantId
from rejoin_runner.agent.agent import Agent
from tests.support.models.agent_teams import Calls, Lines, model_requests, scripted_agent
from tests.support.models.three_tools import build_tools, count_into
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import expire_log

THREE_STEPS: Lines = {"go": [["I look.", Calls("look")], [Calls("stamp")], ["It is {}."]]}


async def say(system: LocalSystem, base: str, text: str) -> tuple[str, str]:
    """Send a message and read its answer. The session, and the run."""
    session = system.fresh("s")
    await system.post(base, system.chat(session, text))
    return session, await newest_run(system, base, session)


async def newest_run(system: LocalSystem, base: str, session: str) -> str:
    found = (await system.get(f"{base}/run/v1/conversations/{session}/executions")).json
    return str(found["executions"][0]["id"])


async def replay(system: LocalSystem, base: str, run: str, **body: Any) -> Any:
    """Replay a run, and wait for its end. The answer of the route."""
    async with system.http.post(f"{base}/api/runs/{run}/replay", json=body) as response:
        assert response.status == 201, await response.text()
        made = await response.json()
    await system.get(f"{base}/run/api/executions/{made['runId']}/stream")
    return made


async def messages(system: LocalSystem, base: str, session: str) -> list[Any]:
    found: list[Any] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    return found


@pytest.fixture
def ran() -> Counter[str]:
    """How often each tool has run."""
    return Counter()


@pytest.fixture
def agent(system: LocalSystem, ran: Counter[str]) -> Agent:
    return scripted_agent(system.agent, THREE_STEPS, tools=build_tools(count_into(ran))[:2])


@pytest.mark.feature("F122")
@pytest.mark.parametrize(
    ("step", "again"),
    [(1, {"look": 2, "stamp": 2}), (2, {"look": 1, "stamp": 2}), (3, {"look": 1, "stamp": 1})],
)
async def test_the_steps_before_are_given_and_the_agent_goes_on(
    system: LocalSystem, agent: Agent, ran: Counter[str], step: int, again: dict[str, int]
) -> None:
    base = await system.gateway()
    await system.runner([agent])
    session, run = await say(system, base, "go")
    before = await messages(system, base, session)
    made = await replay(system, base, run, step=step)
    assert made["runId"] != run
    assert ran == again
    first = model_requests(agent)[3]
    assert first.step == step - 1
    [asked, answer] = await messages(system, base, made["sessionId"])
    assert asked == before[0]
    assert answer["id"] != before[1]["id"]
    assert answer["parts"] == before[1]["parts"]
    assert answer["metadata"]["usage"]["outputTokens"] == 10 * (4 - step)  # of its own steps alone
    assert await messages(system, base, session) == before
    [listed] = (await system.get(f"{base}/api/runs?session={made['sessionId']}")).json["runs"]
    assert (listed["state"], listed["usage"]["outputTokens"]) == ("completed", 10 * (4 - step))


@pytest.mark.feature("F122")
async def test_the_same_key_again_returns_the_same_run(system: LocalSystem, agent: Agent) -> None:
    base = await system.gateway()
    await system.runner([agent])
    _, run = await say(system, base, "go")

    async def asked(step: int, key: str) -> Any:
        url, headers = f"{base}/api/runs/{run}/replay", {"Idempotency-Key": key}
        async with system.http.post(url, json={"step": step}, headers=headers) as response:
            assert response.status == 201
            return await response.json()

    made = await asked(2, "one")
    assert await asked(2, "one") == made
    others = [await asked(3, "one"), await asked(2, "two")]
    assert len({made["sessionId"], *(other["sessionId"] for other in others)}) == 3


async def test_a_decision_of_a_kept_step_is_not_asked_for_again(
    system: LocalSystem, ran: Counter[str]
) -> None:
    base = await system.gateway()
    lines: Lines = {"go": [[Calls("delete")], ["It is {}."]]}
    await system.runner([scripted_agent(system.agent, lines, tools=build_tools(count_into(ran)))])
    session, run = await say(system, base, "go")
    await system.post(base, await system.decision(base, session, approved=True))
    made = await replay(system, base, run, step=2)
    [_, answer] = await messages(system, base, made["sessionId"])
    [call] = [part for part in answer["parts"] if part["type"] == "tool-delete"]
    assert (call["state"], call["approval"]["approved"]) == ("output-available", True)
    assert answer["parts"][-1]["text"] == "It is deleted."
    assert ran == {"delete": 1}
    again = await replay(system, base, run, step=1)  # the call itself is made again: somebody must decide
    [waiting] = (await system.get(f"{base}/api/approvals?run={again['runId']}")).json["calls"]
    assert waiting["toolName"] == "delete"
    await system.post(base, await system.decision(base, again["sessionId"], approved=True))
    assert ran == {"delete": 2}


async def test_a_question_of_the_new_run_is_answered_beside_one_of_a_kept_step(
    system: LocalSystem, ran: Counter[str]
) -> None:
    """The client sends both decisions: that of the kept step is another run's."""
    base = await system.gateway()
    lines: Lines = {"go": [[Calls("delete")], [Calls("delete")], ["It is {}."]]}
    await system.runner([scripted_agent(system.agent, lines, tools=build_tools(count_into(ran)))])
    session, run = await say(system, base, "go")
    for _ in range(2):
        await system.post(base, await system.decision(base, session, approved=True))
    made = await replay(system, base, run, step=2)
    answered = await system.post(base, await system.decision(base, made["sessionId"], approved=False))
    assert answered.status == 200
    [_, answer] = await messages(system, base, made["sessionId"])
    states = [part["state"] for part in answer["parts"] if part["type"] == "tool-delete"]
    assert states == ["output-available", "output-denied"]
    assert ran == {"delete": 2}


async def test_a_step_within_a_delegation_is_the_delegated_agents(
    system: LocalSystem, ran: Counter[str]
) -> None:
    base = await system.gateway()
    tools = build_tools(count_into(ran))[:2]
    research = scripted_agent(
        "research", {"find": [[Calls("look")], [Calls("stamp")], ["It is {}."]]}, tools=tools
    )
    lines: Lines = {"go": [[Calls("delegate_to_research", {"task": "find"})], ["They say: {}"]]}
    await system.runner([scripted_agent(system.agent, lines, delegates=[research])])
    session, run = await say(system, base, "go")
    before = (await messages(system, base, session))[1]
    for step, again in (
        (3, {"look": 1, "stamp": 2}),
        (2, {"look": 2, "stamp": 3}),
        (5, {"look": 2, "stamp": 3}),
    ):
        made = await replay(system, base, run, step=step)
        assert (await messages(system, base, made["sessionId"]))[1]["parts"] == before["parts"], step
        assert ran == again


async def test_what_cannot_be_replayed_is_refused(system: LocalSystem, agent: Agent) -> None:
    base = await system.gateway()
    await system.runner([agent])
    session, run = await say(system, base, "go")

    async def refused(run: str, **body: Any) -> tuple[int, str]:
        async with system.http.post(f"{base}/api/runs/{run}/replay", json=body) as response:
            return response.status, (await response.json())["detail"]

    assert await refused("run_none") == (404, "there is no run 'run_none'")
    assert (await refused(run, step=0))[0] == 400
    assert await refused(run, step=4) == (400, f"run {run} has 3 steps")
    await expire_log(system.nats_url, RunId(run), 0)
    assert (await refused(run, step=2))[0] == 410
    made = await replay(system, base, run)  # needs no log
    assert len(await messages(system, base, made["sessionId"])) == 2
    async with system.http.delete(f"{base}/api/agents/{system.agent}/{session}") as response:
        assert response.status < 300
    assert (await refused(run))[0] == 404


async def test_a_replay_beyond_a_limit_leaves_no_fork_and_a_repeated_one_is_none(
    system: LocalSystem, agent: Agent
) -> None:
    base = await system.gateway()
    await system.runner([agent])
    session, run = await say(system, base, "go")
    url = f"{base}/api/runs/{run}/replay"

    async def asked(key: str) -> tuple[int, Any]:
        async with system.http.post(url, json={"step": 2}, headers={"Idempotency-Key": key}) as response:
            return response.status, await response.json()

    made = await asked("one")
    async with await run_store.open_run_store(system.database_url, pool_max=1) as store:
        tenants = PostgresTenants(store.database)
        await tenants.set_limits(TenantId("default"), Limits(tokens_per_day=1))
        try:
            assert (await asked("two"))[0] == 429
            assert await asked("one") == made
        finally:
            await tenants.set_limits(TenantId("default"), Limits())
    found = (await system.get(f"{base}/api/sessions?agent={system.agent}")).json["sessions"]
    assert {one["id"] for one in found} == {session, made[1]["sessionId"]}


@pytest.mark.feature("F122")
async def test_a_replay_that_is_refused_after_its_fork_leaves_none(system: LocalSystem, agent: Agent) -> None:
    """The fork has room for the message, but not for the kept steps."""
    base = await system.gateway()
    await system.runner([agent])
    session, run = await say(system, base, "go")
    async with await run_store.open_run_store(system.database_url, pool_max=1) as store:
        tenants = PostgresTenants(store.database)
        await tenants.set_limits(TenantId("default"), Limits(session_bytes_max=250))
        try:
            async with system.http.post(f"{base}/api/runs/{run}/replay", json={"step": 3}) as response:
                assert (response.status, (await response.json())["detail"][:11]) == (409, "the session")
        finally:
            await tenants.set_limits(TenantId("default"), Limits())
    found = (await system.get(f"{base}/api/sessions?agent={system.agent}")).json["sessions"]
    assert [one["id"] for one in found] == [session]


@pytest.mark.feature("F122")
async def test_a_repeated_replay_uses_the_fork_of_one_that_was_cut_off(
    system: LocalSystem, agent: Agent
) -> None:
    """The gateway made the fork, and then it was killed."""
    base = await system.gateway()
    await system.runner([agent])
    session, run = await say(system, base, "go")
    owner = Owner(TenantId("default"), None)
    fork = SessionId(new_session_id(f"one {run} 2", owner))
    answer = MessageId((await messages(system, base, session))[-1]["id"])
    async with await run_store.open_run_store(system.database_url, pool_max=1) as store:
        await PostgresSessionStore(store.database).fork(owner, SessionId(session), answer, fork)
    url, headers = f"{base}/api/runs/{run}/replay", {"Idempotency-Key": "one"}
    made: list[Any] = []
    for _ in range(2):
        async with system.http.post(url, json={"step": 2}, headers=headers) as response:
            assert response.status == 201
            made.append(await response.json())
    assert made[0] == made[1]
    assert made[0]["sessionId"] == fork
    await system.get(f"{base}/run/api/executions/{made[0]['runId']}/stream")
    assert [message["role"] for message in await messages(system, base, fork)] == ["user", "assistant"]
