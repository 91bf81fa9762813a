"""The real AG-UI clients in Node: `HttpAgent` 1.0, the one before it, and CopilotKit's core."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.agents.ag_ui.flows import COUNT, NUMBERS, build_agent
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.system.local_system import LocalSystem

HERE = Path(__file__).parent
FLOWS_S_MAX = 60.0
NEWEST = "@ag-ui/client"
BEFORE = "ag-ui-client-0"
"""0.0.59, which CopilotKit brings."""

pytestmark = [pytest.mark.slow, pytest.mark.feature("F117"), pytest.mark.timeout(INSTALL_S_MAX + FLOWS_S_MAX)]


@pytest.fixture(scope="module")
async def node() -> str:
    return await install_packages(HERE)


async def bases(system: LocalSystem) -> Sequence[str]:
    await system.runner([build_agent(system.agent)])
    return [await system.gateway(), await system.gateway()]


async def play(node: str, script: str, *arguments: str) -> Any:
    code, said = await run_command(HERE, node, script, *arguments, seconds=FLOWS_S_MAX)
    assert code == 0, said
    return json.loads(said.splitlines()[-1])


@pytest.mark.parametrize("client", [NEWEST, BEFORE])
async def test_an_http_agent_plays_every_flow(system: LocalSystem, node: str, client: str) -> None:
    """Each ends with the messages that the thread has, and nothing is refused or stripped."""
    found = await play(node, "flows.mjs", client, system.agent, *await bases(system))
    assert {name: one["threw"] for name, one in found.items() if one and "threw" in one} == {}
    hello = ["user: hello", "reasoning: A greeting.", "assistant: Hello there."]
    assert found["send"]["texts"] == [*hello, *hello]
    assert found["send"]["types"][0] == "RUN_STARTED"
    assert found["send"]["outcome"] == {"type": "success"}
    rains = "It rains in Oslo."
    assert found["tools"]["texts"] == [
        "user: weather",
        "assistant: Let me see.",
        f"tool: {rains}",
        f"assistant: {rains}",
    ]
    assert found["tools"]["arguments"] == [{"city": "Oslo"}]
    assert found["frontend"]["pending"] == (client == NEWEST)
    assert found["frontend"]["texts"][1:] == ["assistant: ", "tool: Oslo", "assistant: You are in Oslo."]
    assert found["approve"]["texts"][1:] == ["assistant: ", "tool: Booked Rome.", "assistant: Booked Rome."]
    assert found["approve"]["left"] == 0
    assert found["deny"]["texts"][2] == "tool: The call was denied. Reason: too far"
    assert found["cut"] == {"texts": [f"user: {COUNT}", f"assistant: {NUMBERS}"], "counted": 1}
    if client == NEWEST:
        assert found["reload"]["same"]
        assert found["reload"]["texts"][2:] == ["tool: Booked Oslo.", "assistant: Booked Oslo."]
    assert found["again"]["texts"] == hello, "the repeat is the same run"
    assert found["fail"] == {"error": "The provider is on fire.", "last": "RUN_ERROR"}
    assert found["refuse"]["error"].startswith("HTTP 404")
    assert found.get("warnings", []) == []


def test_the_page_prints_what_these_flows_use() -> None:
    page = (HERE.parents[2] / "docs/howto/ag-ui.md").read_text()
    for name in ("resuming_fetch.mjs", "rejoin_agent.mjs"):
        assert (HERE / name).read_text() in page
