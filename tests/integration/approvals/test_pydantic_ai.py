"""A pydantic-ai agent that is brought as it is: the calls that it defers wait in Rejoin."""

from dataclasses import dataclass
from typing import Any

import pytest
from pydantic_ai import Agent as LibraryAgent
from pydantic_ai import ApprovalRequired, DeferredToolRequests, RunContext, ToolDefinition
from pydantic_ai.messages import ModelMessage, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.toolsets import ExternalToolset

from rejoin import adapt_pydantic_ai, testing
from rejoin.testing import Chat
from rejoin_protocol.errors import Invalid

RUNS: list[str] = []
ASKED: list[list[ModelMessage]] = []


@dataclass
class Bank:
    """Dependencies."""

    name: str


def results(messages: list[ModelMessage]) -> dict[str, Any]:
    """What the tools of the last request have returned."""
    parts = messages[-1].parts
    return {part.tool_name: part.content for part in parts if isinstance(part, ToolReturnPart)}


def build(*calls: ToolCallPart) -> "LibraryAgent[Bank, str | DeferredToolRequests]":
    async def stream(messages: list[ModelMessage], _: AgentInfo) -> Any:
        ASKED.append(messages)
        if results(messages):
            yield f"Results: {sorted(results(messages).items())}"
            return
        yield {
            number: DeltaToolCall(
                name=call.tool_name, json_args=call.args_as_json_str(), tool_call_id=call.tool_call_id
            )
            for number, call in enumerate(calls)
        }

    where = ToolDefinition(
        name="where",
        description="Find the user.",
        parameters_json_schema={"type": "object", "properties": {}},
    )
    agent = LibraryAgent(
        FunctionModel(stream_function=stream),
        deps_type=Bank,
        output_type=[str, DeferredToolRequests],
        toolsets=[ExternalToolset([where])],
    )

    @agent.tool(requires_approval=True)
    async def pay(ctx: RunContext[Bank], to: str, cents: int) -> str:
        """Pay somebody."""
        RUNS.append(f"{ctx.deps.name} {to} {cents}")
        return f"Paid {cents}."

    @agent.tool
    async def look(ctx: RunContext[Bank], secret: bool) -> str:
        """Look at something."""
        if secret and not ctx.tool_call_approved:
            raise ApprovalRequired
        RUNS.append(f"look {secret}")
        return "seen"

    return agent


PAY = ToolCallPart("pay", {"to": "Ann", "cents": 900}, "c1")
LOOK = ToolCallPart("look", {"secret": False}, "c2")
SECRET = ToolCallPart("look", {"secret": True}, "c3")
WHERE = ToolCallPart("where", {}, "c4")


def open_chat(*calls: ToolCallPart) -> Any:
    RUNS.clear()
    ASKED.clear()
    made = adapt_pydantic_ai(build(*calls), name="bank", deps=lambda _: Bank("Safe"))
    return testing.chat(made)


@pytest.mark.feature("F50", "F121")
async def test_an_approval_of_the_library_is_ours_with_changed_arguments() -> None:
    chat: Chat
    async with open_chat(PAY, LOOK) as chat:
        asked = await chat.send("go")
        assert [(one.name, one.input) for one in asked.waiting] == [("pay", {"to": "Ann", "cents": 900})]
        assert (asked.finish_reason, RUNS) == ("tool-calls", ["look False"])
        with pytest.raises(Invalid, match="do not fit"):
            await chat.approve(input={"to": "Ann", "cents": "all"})
        answer = await chat.approve(input={"to": "Ann", "cents": 8})
        assert RUNS == ["look False", "Safe Ann 8"]
        assert answer.tool("pay").output == "Paid 8."
        assert "Paid 8." in answer.text
        assert "seen" in answer.text
        assert (await chat.history())[-1]["parts"] == answer.message["parts"]


@pytest.mark.feature("F59")
async def test_a_denial_and_its_reason_reach_the_library() -> None:
    chat: Chat
    async with open_chat(PAY) as chat:
        await chat.send("go")
        answer = await chat.deny("too much")
        assert (RUNS, answer.tool("pay").state) == ([], "output-denied")
        assert "too much" in answer.text


@pytest.mark.feature("F51")
async def test_a_tool_that_asks_only_sometimes_is_called_as_an_approved_one() -> None:
    chat: Chat
    async with open_chat(SECRET) as chat:
        assert (await chat.send("go")).tool("look").waits_for_approval
        assert (await chat.approve()).tool("look").output == "seen"
        assert RUNS == ["look True"]


@pytest.mark.feature("F104")
async def test_an_external_tool_is_the_client_s() -> None:
    chat: Chat
    async with open_chat(WHERE, PAY) as chat:
        asked = await chat.send("go")
        assert [one.name for one in asked.waiting_for_output] == ["where"]
        assert (await chat.tool_output({"city": "Oslo"})).events == []
        answer = await chat.approve()
        assert "Oslo" in answer.text
        assert RUNS == ["Safe Ann 900"]


@pytest.mark.feature("F71")
@pytest.mark.parametrize("event", ["tool-approval-request", "tool-output-available", "text-end"])
async def test_an_approved_call_runs_once_wherever_the_runner_crashes(event: str) -> None:
    chat: Chat
    async with open_chat(PAY) as chat:
        chat.crash_at(event)
        asked = await chat.send("go")
        assert asked.tool("pay").waits_for_approval
        answer = await chat.approve()
        assert len(RUNS) == 1
        assert answer.finish_reason == "stop"
