"""Client tools that the request brings, as assistant-ui sends them, through gateways, runners and servers."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from rejoin import Agent, client_tool, testing
from rejoin.testing import ScriptedModel, call
from rejoin_protocol.errors import Invalid
from rejoin_runner.agent.custom_loop import CustomLoop, RunInput
from tests.support.agents.travel_tools import book, weather
from tests.support.system.local_system import Answer, LocalSystem

pytestmark = pytest.mark.feature("F104")

LOCATE = {
    "description": "Find out where the user is.",
    "parameters": {"type": "object", "properties": {"accuracy": {"type": "number", "pattern": "(a+)+$"}}},
}
TOOLS = {"locate": LOCATE}
BAD_REQUEST = 400


def agent_of(system: LocalSystem, model: ScriptedModel, **more: Any) -> Agent:
    fields: dict[str, Any] = {"client_tools": "request", "tools": [weather, book]} | more
    return Agent(name=system.agent, model=model, **fields)


async def answered(system: LocalSystem, base: str, session: str, output: Any) -> Answer:
    """What `useChat` posts after `addToolOutput` for every open call, tools and all."""
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    for part in messages[-1]["parts"]:
        if part.get("state") == "input-available":
            part |= {"state": "output-available", "output": output}
    body = {"id": session, "messages": messages, "messageId": messages[-1]["id"], "tools": TOOLS}
    return await system.post(base, body | {"trigger": "submit-message"})


async def test_the_run_waits_for_a_tool_of_the_request_and_goes_on_elsewhere(system: LocalSystem) -> None:
    """Asked by one runner, continued by another one through another gateway."""
    model = ScriptedModel(
        [call("locate", accuracy="high"), call("weather", city="Oslo")],
        lambda request: (
            f"You are in {request.answer['parts'][-2]['output']['city']}."
            if request.answer["parts"][-2]["type"] == "tool-locate"
            else "I am lost."
        ),
        "Hello.",
    )
    first, second = await system.gateway(), await system.gateway()
    worker = await system.runner([agent_of(system, model)])
    session = system.fresh("s")
    asked = await system.post(first, system.chat(session, "Where am I?", tools=TOOLS, system="x"))
    assert asked.chunks[-1]["finishReason"] == "tool-calls"
    [offered] = [one for one in model.requests[0].tools if one.name == "locate"]
    assert (offered.description, offered.input_schema) == (LOCATE["description"], LOCATE["parameters"])
    [wanted] = [one for one in asked.chunks if one.get("toolName") == "locate" and "input" in one]
    assert wanted["providerMetadata"] == {"rejoin": {"client": True}}
    worker.drain()
    await system.runner([agent_of(system, model)])
    answer = await answered(system, second, session, {"city": "Oslo"})
    assert answer.text == "You are in Oslo."
    assert {one.name for one in model.requests[1].tools} == {"weather", "book", "locate"}
    await system.post(first, system.chat(session, "Hello"))
    assert {one.name for one in model.requests[2].tools} == {"weather", "book"}, "tools are the request's"


async def test_the_output_may_come_by_rest_beside_an_approval(system: LocalSystem) -> None:
    model = ScriptedModel([call("locate"), call("book", city="Rome")], "Done.")
    base = await system.gateway()
    await system.runner([agent_of(system, model)])
    session = system.fresh("s")
    asked = await system.post(base, system.chat(session, "Plan", tools=TOOLS))
    run = f"{base}/run/api/executions/{asked.headers['x-workflow-run-id']}"
    waiting = (await system.get(run)).json
    [output], [approval] = waiting["pendingToolOutputs"], waiting["pendingApprovals"]
    url = f"{run}/tool-outputs/{output['toolCallId']}"
    async with system.http.post(url, json={"output": [1, "🍲"]}) as response:
        assert response.status == 200
    url = f"{run}/approvals/{approval['toolCallId']}"
    async with system.http.post(url, json={"approved": True}) as response:
        assert response.status == 200
    answer = await system.get(f"{run}/stream?follow=true")
    assert answer.text == "Done."
    [part] = [one for one in model.requests[1].answer["parts"] if one["type"] == "tool-locate"]
    assert part["output"] == [1, "🍲"]


@pytest.mark.parametrize(
    ("tools", "why"),
    [
        ({"weather": LOCATE}, "has a tool weather itself"),
        ({"delegate_to_me": LOCATE}, "has a tool delegate_to_me itself"),
        ({"a b": LOCATE}, "1 to 64 letters"),
        ({"f": {"parameters": {"type": "string"}}}, "of type object"),
        ({"f": []}, "a tool is an object"),
        ([LOCATE], "an object of {description, parameters} by name"),
        ({f"f{n}": {} for n in range(129)}, "at most 128 tools"),
        ({"f": {"description": "x" * 131_072}}, "at most 131072 bytes"),
    ],
)
async def test_tools_that_cannot_be_taken_are_refused_before_anything_is_stored(
    system: LocalSystem, tools: Any, why: str
) -> None:
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([agent_of(system, ScriptedModel())])
    refused = await system.post(base, system.chat(session, "hi", tools=tools))
    assert refused.status == BAD_REQUEST
    assert why in refused.json["detail"]
    assert refused.json["errors"][0]["pointer"].startswith("/tools")
    assert (await system.get(f"{base}/api/agents/{system.agent}/{session}")).status == 404


FAMILIES = ("session", "session-list", "run", "graph")
"""The APIs besides the AI SDK's and OpenAI's that take tools by name, with the forms of their bodies."""


async def post_tools(system: LocalSystem, base: str, family: str, session: str, tools: Any) -> Answer:
    message = {"id": system.fresh("m"), "role": "user", "parts": [{"type": "text", "text": "Where am I?"}]}
    told = {"messages": [message], "conversationId": session, "tools": tools}
    item = {"message": message, "tools": tools}
    path, body = {
        "session": (f"/api/agents/{system.agent}/{session}", item),
        "session-list": (f"/api/agents/{system.agent}/{session}", [item, "!"]),
        "run": ("/run/api/chat", told),
        "graph": ("/api/chat", told),
    }[family]
    async with system.http.post(f"{base}{path}", json=body) as response:
        return await Answer.of(response)


@pytest.mark.parametrize("family", FAMILIES)
async def test_the_session_run_and_graph_apis_take_tools(system: LocalSystem, family: str) -> None:
    model = ScriptedModel(call("locate"), "Done.")
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([agent_of(system, model)])
    asked = await post_tools(system, base, family, session, TOOLS)
    assert asked.chunks[-1]["finishReason"] == "tool-calls"
    assert {one.name for one in model.requests[0].tools} == {"weather", "book", "locate"}
    assert (await answered(system, base, session, "Oslo")).text == "Done."


@pytest.mark.parametrize("family", FAMILIES)
async def test_there_an_agent_that_takes_no_tools_refuses_them(system: LocalSystem, family: str) -> None:
    """Nobody sends them there by habit, as assistant-ui does in the AI SDK's API."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([agent_of(system, ScriptedModel(), client_tools="declared")])
    refused = await post_tools(system, base, family, session, TOOLS)
    assert refused.status == BAD_REQUEST
    assert refused.json["detail"] == f"agent {system.agent} takes no tools from requests"
    pointer = "/0/tools" if family == "session-list" else "/tools"
    assert refused.json["errors"][0]["pointer"] == pointer
    assert (await system.get(f"{base}/api/agents/{system.agent}/{session}")).status == 404


async def test_the_library_takes_the_tools_of_a_body() -> None:
    model = ScriptedModel(call("locate"), "You are in Oslo.")
    own = Agent(name="own", model=model, client_tools="request")
    async with testing.chat(own, model=model) as chat:
        asked = await chat.send({"message": "Where am I?", "tools": TOOLS})
        assert [one.name for one in asked.waiting_for_output] == ["locate"]
        assert (await chat.tool_output("Oslo")).text == "You are in Oslo."


@pytest.mark.parametrize("tools", [{}, TOOLS, {"weather": LOCATE}, ["search"], {"a b": 1}])
async def test_an_agent_that_takes_no_tools_ignores_them(system: LocalSystem, tools: Any) -> None:
    """assistant-ui sends the tools of its page with every message, to every agent."""
    model = ScriptedModel("Hello.")
    base = await system.gateway()
    await system.runner([agent_of(system, model, client_tools="declared")])
    answer = await system.post(base, system.chat(system.fresh("s"), "hi", tools=tools))
    assert answer.text == "Hello."
    assert {one.name for one in model.requests[0].tools} == {"weather", "book"}


async def test_a_client_tool_that_the_agent_declares_is_the_agents(system: LocalSystem) -> None:
    """A page sends every tool that it can run. The agent's schema counts."""
    declared = client_tool("locate", "Where is the user?", output=str)
    model = ScriptedModel(call("locate"), "Done.")
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([agent_of(system, model, tools=[declared])])
    await system.post(base, system.chat(session, "hi", tools=TOOLS))
    [offered] = model.requests[0].tools
    assert offered.description == "Where is the user?"
    assert (await answered(system, base, session, 5)).status == BAD_REQUEST
    assert (await answered(system, base, session, "Oslo")).text == "Done."


async def test_the_tools_of_a_request_are_for_every_agent_of_the_team_that_takes_some(
    system: LocalSystem,
) -> None:
    model = ScriptedModel(call("transfer_to_sales"), call("locate"), "Done.")
    sales = Agent(name="sales", model=model, client_tools="request")
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([agent_of(system, model, tools=[], handoffs=[sales], client_tools="request")])
    await system.post(base, system.chat(session, "hi", tools=TOOLS))
    assert [one.name for one in model.requests[1].tools] == ["locate"]
    assert (await answered(system, base, session, "Oslo")).text == "Done."


async def test_another_word_for_client_tools_is_refused() -> None:
    word: Any = "all"
    with pytest.raises(Invalid, match="client_tools is `declared` or `request`"):
        Agent(name="own", model=ScriptedModel(), client_tools=word)


async def test_a_custom_loop_takes_no_tools() -> None:
    async def loop(run: RunInput[Any]) -> AsyncIterator[str]:
        yield run.agent

    with pytest.raises(Invalid, match="a custom loop has its own tools"):
        Agent(name="own", model=ScriptedModel(), custom_loop=CustomLoop(loop, "fail"), client_tools="request")
