"""Clients answer calls: approvals with changed arguments, and tools of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from rejoin import Agent
from rejoin.testing import ScriptedModel, call
from rejoin_client import Client, Invalid, ToolApprovalRequest
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.node import find_node, run_command
from tests.support.clients.api_families import Script
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.system.local_system import LocalSystem

HERE = Path(__file__).parent


@tool(needs_approval=True, approval_edits=True)
async def pay(ctx: ToolContext[None], cents: int) -> str:
    """Pay."""
    await ctx.emit_artifact(type="receipt", name="Receipt", data={"cents": cents})
    return f"Paid {cents}."


LOCATE = client_tool("locate", "Find out where the user is.", output={"type": "object"})


@pytest.fixture
async def base(system: LocalSystem) -> str:
    lines: Script = {"go": [[Calls("locate"), Calls("pay", {"cents": 900})], ["Done."]]}
    await system.runner([scripted_agent(system.agent, lines, tools=[pay, LOCATE])])
    return await system.gateway()


@pytest.fixture
async def client(system: LocalSystem, base: str) -> AsyncIterator[Client]:
    async with Client(base, agent=system.agent) as one:
        yield one


async def ask(client: Client, session: str) -> tuple[ToolApprovalRequest, str]:
    """Ask; the question that comes, and the run."""
    async with await client.chat.send(session, "go") as answer:
        [question] = [event async for event in answer if isinstance(event, ToolApprovalRequest)]
        return question, answer.run


@pytest.mark.feature("F80", "F104", "F121")
async def test_the_python_client_answers_calls_in_a_chat(system: LocalSystem, client: Client) -> None:
    session = system.fresh("s")
    question, run = await ask(client, session)
    assert (question.tool_name, question.input) == ("pay", {"cents": 900})
    execution = await client.executions.get(run)
    [pending], [waiting] = execution.pending_approvals, execution.pending_tool_outputs
    assert (pending.tool_name, pending.input, pending.input_schema is not None) == (
        "pay",
        {"cents": 900},
        True,
    )
    assert (waiting.tool_name, waiting.output_schema) == ("locate", {"type": "object"})
    assert await client.chat.tool_output(session, waiting.tool_call_id, {"city": "Oslo"}) is None
    with pytest.raises(Invalid, match="do not fit"):
        await client.chat.approve(session, question.approval_id, approved=True, input={"cents": "all"})
    rest = await client.chat.approve(session, question.approval_id, approved=True, input={"cents": 8})
    assert rest is not None
    assert (await rest.text()).strip() == "Done."
    parts = (await client.threads.get(session)).messages[-1]["parts"]
    assert [part["output"] for part in parts if "output" in part] == [{"city": "Oslo"}, "Paid 8."]
    [shown] = [part["data"] for part in parts if part["type"] == "data-artifact"]
    artifact = await client.artifacts.get(shown["artifactId"])
    assert (artifact.name, artifact.data) == ("Receipt", {"cents": 8})


@pytest.mark.feature("F80")
async def test_the_python_client_answers_calls_of_a_run_and_gives_feedback(
    system: LocalSystem, client: Client
) -> None:
    session = system.fresh("s")
    question, run = await ask(client, session)
    [waiting] = (await client.executions.get(run)).pending_tool_outputs
    await client.executions.tool_output(run, waiting.tool_call_id, error="no permission")
    await client.executions.approve(run, question.tool_call_id, approved=True, input={"cents": 7})
    assert (await (await client.executions.stream(run, follow=True)).text()).strip() == "Done."
    parts = (await client.threads.get(session)).messages[-1]["parts"]
    assert [part["errorText"] for part in parts if "errorText" in part] == ["no permission"]
    given = await client.feedback.give(session, "positive", details="quick")
    [found] = (await client.feedback.list(session)).data
    assert (found, found.details) == (given, "quick")


@pytest.mark.feature("F104")
@pytest.mark.parametrize("route", ["chat", "executions"])
async def test_the_python_client_brings_tools(system: LocalSystem, base: str, route: str) -> None:
    """In a chat and in a run of its own: the model calls one, and has its output."""
    model = ScriptedModel([call("locate", accuracy=1)], lambda request: str(request.answer["parts"][-1]))
    agent = Agent(name=f"{system.agent}-taking", model=model, client_tools="request")
    await system.runner([agent])
    parameters = {"type": "object", "properties": {"accuracy": {"type": "integer"}}}
    tools = {"locate": {"description": "Where is the user?", "parameters": parameters}}
    session = system.fresh("s")
    async with Client(base, agent=agent.name) as client:
        asked = (
            await client.chat.send(session, "go", tools=tools)
            if route == "chat"
            else await client.executions.start("go", session=session, tools=tools)
        )
        assert await asked.text() == ""
        [offered] = model.requests[0].tools
        assert (offered.name, offered.description, offered.input_schema) == (
            "locate",
            "Where is the user?",
            parameters,
        )
        [waiting] = (await client.executions.get(asked.run)).pending_tool_outputs
        assert waiting.input == {"accuracy": 1}
        rest = await client.chat.tool_output(session, waiting.tool_call_id, "in Oslo")
        assert rest is not None
        assert "in Oslo" in await rest.text()


@pytest.mark.feature("F104", "F121")
async def test_the_javascript_client_answers_calls(base: str) -> None:
    """With the transport's own methods, and as `useChat` sends them."""
    code, said = await run_command(HERE, find_node(), str(HERE / "answered_calls.mjs"), base, seconds=60)
    assert code == 0, said
    assert msgspec.json.decode(said) == [{"city": "Oslo"}, "Paid 8.", {"city": "Rome"}, "Paid 7."]
