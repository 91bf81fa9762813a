"""Runs that wait for a person and for the client's tools at once, in AG-UI."""

from typing import Any

import pytest

from tests.support.agents.ag_ui.flows import build_agent
from tests.support.clients.ag_ui_client import AgUiClient
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
