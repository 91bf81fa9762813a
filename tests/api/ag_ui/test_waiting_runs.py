"""Runs that wait for a person and for the client's tools at once, in AG-UI."""

import asyncio
import copy
from typing import Any

import pytest

from rejoin_gateway.api.ag_ui.agent_runs import REPEATED_OUTPUTS_MAX
from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_protocol.limits import CONTEXT_BYTES_MAX
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.agents.ag_ui.flows import build_agent
from tests.support.clients.ag_ui_client import AgUiClient
from tests.support.models.agent_teams import Calls, ScriptedPart
from tests.support.system.local_system import LocalSystem

pytestmark = pytest.mark.feature("F104", "F117")
LOCATE = {
    "name": "locate",
    "description": "Find the user.",
    "parameters": {"type": "object", "properties": {}},
}
WEATHER = LOCATE | {"name": "weather"}


@pytest.fixture
async def client(system: LocalSystem) -> AgUiClient:
    await system.runner([build_agent(system.agent)])
    return AgUiClient(system, await system.gateway(), system.fresh("s"))


def resume(interrupts: list[Any]) -> list[Any]:
    return [{"interruptId": one["id"], "status": "resolved", "payload": True} for one in interrupts]


def found(call: str, content: str = "Oslo", **fields: str) -> Any:
    return {"id": f"t-{call}", "role": "tool", "toolCallId": call, "content": content} | fields


async def test_each_run_tells_what_is_left(client: AgUiClient) -> None:
    """The approval first, then the output; repeated requests change nothing."""
    client.say("both")
    asked = await client.run(tools=[LOCATE, WEATHER])
    [interrupt] = asked.outcome["interrupts"]
    body = client.body("r-2", resume=resume([interrupt]))
    left = await client.post(body)
    [call] = left.outcome["pendingToolCallIds"]
    assert (await client.post(body)).outcome == left.outcome
    client.thread.messages.append(found(call))
    body = client.body("r-3")
    done = await client.post(body)
    assert (done.text, done.outcome) == ("Oslo Booked Oslo.", {"type": "success"})
    assert (await client.post(body)).raw == done.raw


async def test_both_answers_come_in_one_request(client: AgUiClient) -> None:
    client.say("both")
    asked = await client.run(tools=[LOCATE])
    [call] = [one["toolCallId"] for one in asked.of("TOOL_CALL_START") if one["toolCallName"] == "locate"]
    client.thread.messages.append(found(call, "", error="no GPS"))
    done = await client.run(resume=resume(asked.outcome["interrupts"]))
    assert done.text == "no GPS Booked Oslo."


async def test_not_all_interrupts_answered_is_refused(client: AgUiClient) -> None:
    client.say("book")
    asked = await client.run()
    [interrupt] = asked.outcome["interrupts"]
    assert interrupt["responseSchema"]["properties"]["editedArgs"]["properties"] == {
        "city": {"type": "string"}
    }
    missing = await client.run(resume=[{"interruptId": "apr_other_1", "status": "cancelled"}])
    assert (missing.status, missing.problem["errors"][0]["pointer"]) == (400, "/resume")
    edits = [
        {
            "interruptId": interrupt["id"],
            "status": "resolved",
            "payload": {"approved": True, "editedArgs": {}},
        }
    ]
    unfit = await client.run(resume=edits)
    assert unfit.status == 400
    assert unfit.problem["errors"][0]["pointer"].startswith("/resume/0/payload/editedArgs")


async def test_the_model_reads_the_context_quoted(client: AgUiClient) -> None:
    """Whatever `forwardedProps` is."""
    for props in (None, "x", {"model": "gpt"}):
        client.say("context")
        run = await client.run(
            context=[{"description": "The page", "value": "a\nb"}], forwardedProps=props, state=[1]
        )
        assert run.text == '[The application says:]\n["The page": "a\\nb"]'


async def test_many_forged_results_cost_few_look_ups(
    system: LocalSystem, client: AgUiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that the run waits for is found among them, wherever it is."""
    store = system.apps[-1][SERVICE].backend.store
    find_calls, looked_up = store.find_calls, []

    async def count(owner: Any, call: Any, session: Any = None) -> Any:
        looked_up.append(call)
        return await find_calls(owner, call, session)

    monkeypatch.setattr(store, "find_calls", count)
    client.say("locate")
    asked = await client.run(tools=[LOCATE])
    [call] = asked.outcome["pendingToolCallIds"]
    forged = [found(f"msg_{'0' * 26}.call_{number}") for number in range(1000)]
    client.thread.messages += [found(call, "Paris"), found(call), *forged]
    done = await client.run()
    assert done.text == "You are in Oslo."
    assert len(looked_up) == REPEATED_OUTPUTS_MAX


async def test_a_page_from_before_the_approval_does_not_stop_the_approved_run(system: LocalSystem) -> None:
    """Its message waits until the run has ended."""
    begun, go = asyncio.Event(), asyncio.Event()

    @tool(needs_approval=True)
    async def depart() -> str:
        """Depart."""
        begun.set()
        await go.wait()
        return "Departed."

    part = ScriptedPart({"go": [[Calls("depart")], ["{}"]], "hello": [["Hello."]]})
    await system.runner([Agent(name=system.agent, model=part, tools=[depart])])
    page = AgUiClient(system, await system.gateway(), system.fresh("s"))
    page.say("go")
    asked = await page.run()
    old = AgUiClient(system, page.base, page.id)
    old.thread.messages = copy.deepcopy(page.thread.messages)
    async with asyncio.TaskGroup() as group:
        approved = group.create_task(page.run(resume=resume(asked.outcome["interrupts"])))
        await begun.wait()
        old.say("hello")
        body = old.body("r-3")
        await old.post(body, until=lambda event: event["type"] == "RUN_STARTED")
        go.set()
    assert (approved.result().text, approved.result().outcome) == ("Departed.", {"type": "success"})
    assert (await old.post(body)).outcome == {"type": "success"}


async def test_a_refused_message_cancels_nothing(client: AgUiClient) -> None:
    client.say("book")
    [interrupt] = (await client.run()).outcome["interrupts"]
    client.say("hello")
    refused = await client.run(
        resume=[{"interruptId": interrupt["id"], "status": "cancelled"}],
        context=[{"description": "The page", "value": "x" * CONTEXT_BYTES_MAX}],
    )
    assert (refused.status, refused.problem["errors"][0]["pointer"]) == (400, "/context")
    client.thread.messages.pop()
    assert (await client.run(resume=resume([interrupt]))).text == "Booked Oslo."
