"""Operations: which API sends which, and that no history holds any."""

import uuid
from collections import Counter
from typing import Any

import pytest

from rejoin_protocol.events import chunks
from rejoin_protocol.events.fold import Fold
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.context_window import ContextWindow
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
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
ROUTES = [
    "/api/chat/{run}/stream",
    "/run/api/chat/{run}/stream",
    "/run/api/executions/{run}/stream",
    "/run/v1/conversations/{session}/stream",
    "/api/agents/{agent}/{session}/reconnect",
    "/api/agents/{agent}/{session}/{run}/stream",
]
"""Where a run's stream is resumed."""
LIFECYCLE = {"agent_initializing", "agent_ready", "completion"}
PROGRESS = {"agent_thinking", "status_update"}


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


@pytest.mark.feature("F29", "F76")
async def test_no_history_holds_an_operation_and_no_viewer_folds_one(system: LocalSystem) -> None:
    """Every kind of operation is in the run, and every one is transient."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([crew(system.agent)])
    await system.post(base, system.chat(session, "hello"))
    body = system.chat(session, "go")
    seen = []
    for headers in ({"x-emit-operations": "true"}, {"x-emit-operations": "false"}, {}):
        # The second one and the third attach to the same run.
        async with system.http.post(f"{base}/api/chat", json=body, headers=headers) as response:
            seen.append(await Answer.of(response))
    curious, *plain = seen
    assert all(answer.complete for answer in seen)
    assert set(kinds(curious.chunks)) == DETAILED | LIFECYCLE | PROGRESS
    assert all(chunk["transient"] for chunk in curious.chunks if chunk["type"] == "data-operation")
    assert [kinds(answer.chunks) for answer in plain] == [Counter(), Counter()]
    stored = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"][-1]
    assert folded(curious) == folded(plain[0]) == folded(plain[1]) == stored
    assert not kinds(stored["parts"])


@pytest.mark.feature("F25", "F26", "F27", "F28", "F29")
@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/api/chat", {"aisdk": set[str](), "graph": LIFECYCLE | PROGRESS, "parts": set[str]()}),
        ("/run/api/chat", {"run": LIFECYCLE}),
        ("/run/api/executions", {"run": LIFECYCLE}),
        ("/api/agents/{agent}/{session}", {"session": set[str]()}),
        ("/api/agent/chat/stream", {"agent chat": set[str]()}),
    ],
)
async def test_each_api_sends_the_operations_that_it_documents(
    system: LocalSystem, path: str, wanted: dict[str, set[str]]
) -> None:
    """Without any header. On every route, a count continues the stream that the run was started with."""
    base = await system.gateway()
    await system.runner([crew(system.agent)])
    for api, operations in wanted.items():
        session = str(uuid.uuid4())
        message = {"role": "user", "content": "go", "parts": [{"type": "text", "text": "go"}]}
        bodies: dict[str, Any] = {
            "aisdk": system.chat(session, "go"),
            "parts": {"threadId": session, "parts": message["parts"]},
            "session": {"message": "go"},
        }
        body = bodies.get(api, {"conversationId": session, "messages": [message]})
        url = base + path.format(agent=system.agent, session=session)
        async with system.http.post(url, json=body) as response:
            answer = await Answer.of(response)
        assert answer.complete
        found = [one["data"] for one in answer.chunks if one["type"] == "data-operation"]
        assert {one["type"] for one in found} == operations, api
        assert all(one["ctx"] == one["details"] for one in found)
        run = answer.headers["x-workflow-run-id"]
        for route in ROUTES:
            url = base + route.format(agent=system.agent, session=session, run=run)
            count = len(answer.frames) // 2
            again = await system.get(url, **{"x-stream-start-index": str(count)})
            assert again.frames == answer.frames[count:], (api, route)
        if api == "graph":
            [update] = [one for one in found if one["type"] == "status_update"]
            assert (update["label"], update["ctx"]) == ("almost there", {"agent": system.agent})
            assert found[-1]["type"] == "completion"
            assert found[-1]["ctx"].keys() == {"agent", "iteration"}


@pytest.mark.feature("F29")
async def test_detailed_operations_hold_what_went_in_and_came_out(system: LocalSystem) -> None:
    """`input` and `output` of a call, the `parts` of a response and of its reasoning."""
    base, session = await system.gateway(), system.fresh("s")
    await system.runner([crew(system.agent)])
    headers = {"x-emit-operations": "true"}
    async with system.http.post(
        f"{base}/api/chat", json=system.chat(session, "go"), headers=headers
    ) as response:
        answer = await Answer.of(response)
    found: dict[str, list[Any]] = {}
    for chunk in answer.chunks:
        if chunk["type"] == "data-operation" and "data" in chunk["data"].get("details", {}):
            found.setdefault(chunk["data"]["type"], []).append(chunk["data"]["details"]["data"])
    inputs = {one["toolName"]: one["input"] for one in found["tool_call"]}
    assert inputs["make"] == {}
    outputs = {one["toolName"]: one["output"] for one in found["tool_result"]}
    assert outputs["make"] == "made"
    assert [{"type": "text", "content": "Where?"}] in [one["parts"] for one in found["agent_reasoning"]]
    generated = [part["content"] for one in found["agent_generate"] for part in one["parts"]]
    assert {"Here.", "Done."} <= set(generated)
    [saved] = found["artifact_saved"]
    assert saved["summaryData"] == {"a": 1}
