"""Clients of the parts API and of workflows against a gateway: Pandora's chat and the transport of
`@workflow/ai`, both without any option.
"""

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoin_runner.demo import build_demo_agent
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import tool
from tests.support.browser.node import INSTALL_S_MAX, install_packages
from tests.support.clients.api_families import ApiClient, Script
from tests.support.models.agent_teams import Calls, scripted_agent
from tests.support.models.approval_tools import ApprovalTools
from tests.support.system.local_system import LocalSystem

HERE = Path(__file__).parent
FLOW_S_MAX = 30.0
AGENTS = "/api/agents/{agent}/{session}"
LINES: Script = {
    "one": [[Calls("left")], ["{}"]],
    "two": [[Calls("left"), Calls("right")], ["{}"]],
    "slow": [[Calls("sleep")], ["{}"]],
}
DECISION_FIELDS = {"runId", "toolCallId", "approved", "threadId", "messageId"}
EVENT_STREAM = "text/event-stream"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S_MAX + FLOW_S_MAX)]


class Played(msgspec.Struct):
    """What the client did: its requests, the states of the calls after each decision, and at the end."""

    requests: list[dict[str, Any]]
    states: dict[str, str]
    texts: list[str]
    status: str
    seen: list[dict[str, Any]] = []
    error: str | None = None

    @property
    def decided(self) -> list[tuple[str, bool]]:
        """The decisions that were sent: call and answer."""
        sent = [one for one in self.requests if one["url"] == "/api/chat/approve"]
        return [(one["body"]["toolCallId"], one["body"]["approved"]) for one in sent]


class WorkflowResult(msgspec.Struct):
    """The requests of a workflow transport, and what it made of the answers."""

    urls: list[dict[str, Any]]
    text: str
    types: list[str]
    last: str | None = None
    error: str | None = None


class Directions(ApprovalTools):
    """A slow tool besides."""

    def tools(self) -> list[Tool]:
        @tool(needs_approval=True)
        async def sleep() -> str:
            """Sleep until a client arrives."""
            self.ran.append("sleep")
            await asyncio.sleep(3600)
            return "slept"

        return [*super().tools(), sleep]


@pytest.fixture(scope="module")
async def node() -> str:
    return await install_packages(HERE)


@pytest.fixture
async def directions(system: LocalSystem) -> Directions:
    directions = Directions()
    await system.runner([scripted_agent(system.agent, LINES, tools=directions.tools())])
    return directions


async def run_script(node: str, script: str, argument: Any) -> bytes:
    """The line that a script prints."""
    process = await asyncio.create_subprocess_exec(
        node,
        HERE / script,
        msgspec.json.encode(argument).decode(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(FLOW_S_MAX):
            line, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, errors.decode()
    return line


async def play(node: str, system: LocalSystem, flow: str) -> Played:
    """One flow of Pandora's client in a thread of its own."""
    client = ApiClient(system, await system.gateway())
    argument = {"base": client.base, "flow": flow, "thread": client.session()}
    return msgspec.json.decode(await run_script(node, "pandora.mjs", argument), type=Played)


@pytest.mark.feature("F57", "F59", "F95")
@pytest.mark.parametrize(("flow", "state"), [("approve", "output-available"), ("deny", "output-denied")])
async def test_one_question_is_one_decision(
    node: str, system: LocalSystem, directions: Directions, flow: str, state: str
) -> None:
    """The client names the approval as `runId` and the call; the answer streams what follows."""
    played = await play(node, system, flow)
    assert (played.states, played.status, played.error) == ({"left": state}, "ready", None)
    [message, decision] = played.requests
    assert (message["url"], list(message["body"])) == ("/api/chat", ["parts", "threadId"])
    assert set(decision["body"]) == DECISION_FIELDS
    assert (decision["status"], decision["type"]) == (200, EVENT_STREAM)
    assert directions.ran == (["left"] if flow == "approve" else [])


@pytest.mark.feature("F57", "F95")
@pytest.mark.parametrize(
    ("flow", "between", "end", "ran"),
    [
        (
            "left, then right",
            {"left": "input-available", "right": "approval-requested"},
            {"left": "output-available", "right": "output-available"},
            ["left", "right"],
        ),
        (
            "right, then left",
            {"left": "approval-requested", "right": "input-available"},
            {"left": "output-available", "right": "output-available"},
            ["left", "right"],
        ),
        (
            "denied, then approved",
            {"left": "approval-requested", "right": "output-denied"},
            {"left": "output-available", "right": "output-denied"},
            ["left"],
        ),
        (
            "approved, then denied",
            {"left": "input-available", "right": "approval-requested"},
            {"left": "output-available", "right": "output-denied"},
            ["left"],
        ),
    ],
)
async def test_with_a_second_question_open_the_client_stops(
    node: str,
    system: LocalSystem,
    directions: Directions,
    flow: str,
    between: dict[str, str],
    end: dict[str, str],
    ran: list[str],
) -> None:
    """It sends again for as long as a call is answered: the stream of the first decision ends that state."""
    played = await play(node, system, flow)
    assert played.seen == [between | {"requests": 2}, end | {"requests": 3}]
    assert [one["type"] for one in played.requests] == [EVENT_STREAM] * 3
    assert (played.status, played.error, sorted(directions.ran)) == ("ready", None, ran)


@pytest.mark.feature("F57")
async def test_two_answers_at_once_are_two_requests(
    node: str, system: LocalSystem, directions: Directions
) -> None:
    """The client sends them one after the other, and the second one continues the run."""
    played = await play(node, system, "both at once")
    assert played.decided == [("call_0_0", True), ("call_0_1", False)]
    assert played.states == {"left": "output-available", "right": "output-denied"}
    assert (played.status, played.error, directions.ran) == ("ready", None, ["left"])


@pytest.mark.feature("F57", "F61")
async def test_a_reload_between_two_answers_changes_nothing(
    node: str, system: LocalSystem, directions: Directions
) -> None:
    """The stored answer is shown as decided, and sending it once more has no second effect."""
    played = await play(node, system, "a reload between")
    assert played.seen[-1] == {"left": "input-available", "right": "approval-requested", "requests": 3}
    assert played.states == {"left": "output-available", "right": "output-available"}
    assert played.decided[0] == ("call_0_0", True)
    assert played.decided[-1] == ("call_0_1", True)
    assert (played.status, played.error) == ("ready", None)
    assert sorted(directions.ran) == ["left", "right"]


@pytest.mark.feature("F57", "F74")
async def test_an_interrupt_behind_a_decision_is_not_asked_for_again(
    node: str, system: LocalSystem, directions: Directions
) -> None:
    played = await play(node, system, "interrupted while a tool runs")
    assert played.decided == [("call_0_0", True)]
    assert "approval-responded" not in played.states.values()
    assert directions.ran in ([], ["sleep"])  # the interrupt may come before the tool is called


@pytest.mark.feature("F10")
async def test_a_new_chat_learns_its_thread_from_the_header(
    node: str, system: LocalSystem, directions: Directions
) -> None:
    played = await play(node, system, "a new chat without a thread")
    [sent] = played.requests
    assert "threadId" not in sent["body"]
    assert len(sent["thread"]) == len("00000000-0000-4000-8000-000000000000")
    assert (played.states, directions.ran) == ({"left": "approval-requested"}, [])


@pytest.mark.feature("F66", "F67")
@pytest.mark.parametrize("path", ["/api/chat", "/run/api/chat", AGENTS])
async def test_the_workflow_transport_resumes_by_default(node: str, system: LocalSystem, path: str) -> None:
    """It appends the run's id and `/stream` to the path that it posts to, and counts what it has read."""
    await system.runner([msgspec.structs.replace(build_demo_agent(), name=system.agent)])
    client = ApiClient(system, await system.gateway())
    api = client.base + path.format(agent=system.agent, session="trip-1")
    argument = {"api": api, "body": {}, "text": "count 20 every 5 ms", "cutAfter": 9}
    found = await run_script(node, "workflow.mjs", argument)
    result = msgspec.json.decode(found, type=WorkflowResult)
    assert (result.error, result.last) == (None, "finish")
    assert result.text.split() == [str(number) for number in range(1, 21)]
    [posted, resumed] = result.urls
    assert posted["method"] == "POST"
    assert resumed["path"].startswith(path.format(agent=system.agent, session="trip-1") + "/run_")
    assert "/stream?startIndex=" in resumed["path"]
    assert resumed["status"] == 200


@pytest.mark.feature("F55", "F66", "F67")
@pytest.mark.parametrize(
    ("path", "field"), [("/api/chat", "id"), ("/run/api/chat", "conversationId"), (AGENTS, "unused")]
)
async def test_the_workflow_transport_resumes_behind_a_decision(
    node: str, system: LocalSystem, path: str, field: str
) -> None:
    """It counts anew from the response to the decision, whose id names the turn."""
    await system.runner([msgspec.structs.replace(build_demo_agent(), name=system.agent)])
    client = ApiClient(system, await system.gateway())
    session = client.session()
    argument = {
        "api": client.base + path.format(agent=system.agent, session=session),
        "body": {field: session},
        "text": "delete notes.txt",
        "cutAfter": 3,
        "history": client.base + client.at(session),
    }
    result = msgspec.json.decode(await run_script(node, "workflow.mjs", argument), type=WorkflowResult)
    assert (result.error, result.last, result.text) == (None, "finish", "notes.txt is deleted.")
    assert [result.types.count(type) for type in ("start", "tool-output-available", "finish")] == [1, 1, 1]
    assert "tool-approval-request" not in result.types
    [_, decided, resumed] = result.urls
    assert (decided["method"], resumed["status"]) == ("POST", 200)
    assert re.search(r"/run_[^/.]+\.1/stream\?startIndex=[0-3]$", resumed["path"])
