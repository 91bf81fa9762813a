"""The transport of assistant-ui brings the tools of its page, and its page answers their calls."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from rejoin.testing import ScriptedModel, call
from rejoin_runner.agent.agent import Agent
from tests.support.browser.node import INSTALL_S_MAX, install_packages, run_command
from tests.support.system.local_system import LocalSystem

HERE = Path(__file__).parent
PLAY_S_MAX = 60.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(INSTALL_S_MAX + 2 * PLAY_S_MAX)]


async def play(
    system: LocalSystem, model: ScriptedModel, client_tools: Literal["declared", "request"]
) -> Any:
    node = await install_packages(HERE)
    await system.runner([Agent(name=system.agent, model=model, client_tools=client_tools)])
    base, script = await system.gateway(), str(HERE / "assistant_ui.mjs")
    session = system.fresh("s")
    code, said = await run_command(HERE, node, script, base, system.agent, session, seconds=PLAY_S_MAX)
    assert code == 0, said
    found = msgspec.json.decode(said.splitlines()[-1])
    assert found["error"] is None
    assert set(found["sent"][0]["tools"]) == {"locate"}
    return found


@pytest.mark.feature("F104")
async def test_the_tools_of_the_page_are_called_and_answered(system: LocalSystem) -> None:
    model = ScriptedModel(call("locate", accuracy="high"), "You are in Oslo.")
    found = await play(system, model, "request")
    parts = {part["type"]: part for part in found["message"]["parts"]}
    assert parts["tool-locate"]["output"] == {"city": "Oslo"}
    assert parts["text"]["text"] == "You are in Oslo."
    assert len(found["sent"]) == 2
    [offered] = model.requests[0].tools
    assert (offered.name, offered.description) == ("locate", "Find out where the user is.")
    assert offered.input_schema["properties"] == {"accuracy": {"type": "string"}}


@pytest.mark.feature("F104")
async def test_an_agent_that_takes_no_tools_answers_the_page_all_the_same(system: LocalSystem) -> None:
    model = ScriptedModel("Hello.")
    found = await play(system, model, "declared")
    assert [part["text"] for part in found["message"]["parts"] if part["type"] == "text"] == ["Hello."]
    assert list(model.requests[0].tools) == []
