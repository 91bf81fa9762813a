"""Operations: clients with and without them have the same history, which is the stored one."""

from collections import Counter
from typing import Any

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import Fold
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.context_window import ContextWindow
from rejoin_runner.tools.decorator import tool
from rejoin_runner.tools.tool_context import ToolContext

from tests.support.models.agent_teams import Calls, Lines, Thinks, scripted_agent
from tests.support.system.local_system import Answer, LocalSystem

DETAILED = {
    "agent_generate",
    "agent_reasoning",
    "artifact_saved",
    "compression",
    "delegation_returned",
    "delegation_sent",
    "polishing",
    "tool_call",
    "tool_result",
    "transfer",
}
ALWAYS = {"agent_initializing", "agent_ready", "agent_thinking", "completion"}


@tool
async def make(ctx: ToolContext[None]) -> str:
    """Make something, and talk about it."""
    await ctx.emit_operation("polishing", "Polishes")
    await ctx.emit_artifact(type="report", name="Report", data={"a": 1}, preview=["a"])
    await ctx.emit_status("almost there")
    return "made"


def crew(name: str) -> Agent:
    """One that does everything there is an operation for."""
    billing = scripted_agent("billing", {"go": [[], [], ["Done."]]})
    research = scripted_agent("research", {"find": [[Thinks("Where?"), "Here."]]})
    lines: Lines = {
        "hello": [["Hello."]],
        "go": [
            [Thinks("Well."), Calls("delegate_to_research", {"task": "find"})],
            [Calls("make"), Calls("transfer_to_billing")],
        ],
    }
    return scripted_agent(
        name,
        lines,
        tools=[make],
        handoffs=[billing],
        delegates=[research],
        context_window=ContextWindow(messages_max=1),
    )


def folded(answer: Answer) -> dict[str, Any]:
    fold = Fold()
    for frame in answer.frames[:-1]:
        fold.apply(chunks.decode(frame.data))
    return fold.message


def kinds(message_or_chunks: list[dict[str, Any]]) -> Counter[str]:
    return Counter(one["data"]["type"] for one in message_or_chunks if one["type"] == "data-operation")


async def test_the_history_is_what_each_viewer_folds_with_operations_and_without(system: LocalSystem) -> None:
    """The run has every kind of operation; the history has none of the optional ones."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([crew(system.agent)])
    await system.post(base, system.chat(session, "hello"))
    body = system.chat(session, "go")
    seen = []
    for headers in ({"x-emit-operations": "true"}, {}):  # the second attaches to the same run
        async with system.http.post(f"{base}/api/chat", json=body, headers=headers) as response:
            seen.append(await Answer.of(response))
    curious, plain = seen
    assert curious.complete
    assert plain.complete
    assert set(kinds(curious.chunks)) == DETAILED | ALWAYS
    assert set(kinds(plain.chunks)) == ALWAYS
    for chunk in curious.chunks:
        if chunk["type"] == "data-operation":
            assert chunk.get("transient", False) is (chunk["data"]["type"] in DETAILED)
    stored = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"][-1]
    assert folded(curious) == folded(plain) == stored
    assert set(kinds(stored["parts"])) == ALWAYS
