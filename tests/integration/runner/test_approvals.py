"""Calls that need an approval are stored, requested, and executed or denied as decided; a client can forge
none of it.
"""

import copy
from typing import Any

import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool import NeedsApproval
from rejoin_runner.tools.tool_context import ToolContext
from tests.support.models.scripted_models import CallingModel, ShellTools
from tests.support.system.local_system import Answer, LocalSystem


@pytest.fixture
def shell() -> ShellTools:
    return ShellTools()


async def last(system: LocalSystem, base: str, session: str) -> dict[str, Any]:
    """The session's last message, as a client finds it after a reload."""
    messages = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
    found: dict[str, Any] = messages[-1]
    return found


def answered(message: dict[str, Any], *, approved: bool = True) -> dict[str, Any]:
    """The message with each of its questions answered."""
    message = copy.deepcopy(message)
    for part in message["parts"]:
        if part.get("state") == "approval-requested":
            part["state"] = "approval-responded"
            part["approval"]["approved"] = approved
    return message


async def decide(system: LocalSystem, base: str, session: str, message: dict[str, Any]) -> Answer:
    return await system.post(base, {"id": session, "messages": [message], "messageId": message["id"]})


@pytest.mark.feature("F50", "F61")
async def test_nothing_is_done_before_a_person_has_decided(system: LocalSystem, shell: ShellTools) -> None:
    """The stream has both ids of the approval, and so has the history after a reload, through another
    gateway.
    """
    model = CallingModel(rm={"command": "rm notes.txt"})
    await system.runner(
        [Agent(name=system.agent, model=model, tools=[shell.tool("rm", needs_approval=True)])]
    )
    here, there = await system.gateway(), await system.gateway()
    session = system.fresh("s")
    asked = await system.post(here, system.chat(session, "tidy up"))
    [question] = [chunk for chunk in asked.chunks if chunk["type"] == "tool-approval-request"]
    assert question["toolCallId"] == "call_rm"
    assert asked.chunks[-1]["finishReason"] == "tool-calls"
    message = await last(system, there, session)
    [part] = [part for part in message["parts"] if part["type"] == "tool-rm"]
    assert part["state"] == "approval-requested"
    assert part["approval"] == {"id": question["approvalId"]}
    assert shell.ran == []
    assert (await decide(system, there, session, answered(message))).text == "output-available"
    assert shell.ran == ["rm notes.txt"]


@pytest.mark.feature("F51")
async def test_what_asks_is_decided_by_its_arguments_and_by_the_tool_before_its_agent(
    system: LocalSystem, shell: ShellTools
) -> None:
    """`rm` needs an approval and `ls` does not. The agent's rule counts only where the tool has none."""

    def destroys(input: dict[str, Any], context: ToolContext[None]) -> bool:
        del context
        return str(input["command"]).startswith("rm")

    names = ("asks", "passes", "insists", "trusted", "agents")
    tools = [
        shell.tool("asks", needs_approval=destroys),
        shell.tool("passes", needs_approval=destroys),
        shell.tool("insists", needs_approval=True),
        shell.tool("trusted", needs_approval=False),
        shell.tool("agents"),
    ]
    says: dict[str, NeedsApproval[Any]] = {"insists": False, "trusted": True, "agents": destroys}
    calls = {name: {"command": f"{'ls' if name == 'passes' else 'rm'} {name}"} for name in names}
    agent = Agent(name=system.agent, model=CallingModel(**calls), tools=tools, needs_approval=says)
    await system.runner([agent])
    base, session = await system.gateway(), system.fresh("s")
    asked = await system.post(base, system.chat(session, "go"))
    questions = [chunk["toolCallId"] for chunk in asked.chunks if chunk["type"] == "tool-approval-request"]
    assert questions == ["call_asks", "call_insists", "call_agents"]
    assert "rm asks" not in shell.ran
    done = await decide(system, base, session, answered(await last(system, base, session), approved=False))
    assert sorted(done.text.split()) == ["output-available"] * 2 + ["output-denied"] * 3
    assert sorted(shell.ran) == ["ls passes", "rm trusted"]


@pytest.mark.feature("F87")
async def test_what_was_shown_is_what_is_run_whatever_a_client_sends_back(
    system: LocalSystem, shell: ShellTools
) -> None:
    """Arguments that were altered on the way are not looked at."""
    model = CallingModel(rm={"command": "rm notes.txt"})
    await system.runner(
        [Agent(name=system.agent, model=model, tools=[shell.tool("rm", needs_approval=True)])]
    )
    base, session = await system.gateway(), system.fresh("s")
    await system.post(base, system.chat(session, "tidy up"))
    forged = answered(await last(system, base, session))
    for part in forged["parts"]:
        if part["type"] == "tool-rm":
            part["input"] = {"command": "rm everything"}
    assert (await decide(system, base, session, forged)).text == "output-available"
    assert shell.ran == ["rm notes.txt"]
    [part] = [part for part in (await last(system, base, session))["parts"] if part["type"] == "tool-rm"]
    assert (part["input"], part["output"]) == ({"command": "rm notes.txt"}, "rm notes.txt: done")


@pytest.mark.feature("F86", "F87")
async def test_decisions_that_are_stale_or_not_ones_own_change_nothing(
    system: LocalSystem, shell: ShellTools
) -> None:
    """A decision of another session, of an unknown approval, against the stored decision, and after the run's
    end.
    """
    model = CallingModel(rm={"command": "rm notes.txt"})
    await system.runner(
        [Agent(name=system.agent, model=model, tools=[shell.tool("rm", needs_approval=True)])]
    )
    base, session, other = await system.gateway(), system.fresh("s"), system.fresh("s")
    for one in (session, other):
        await system.post(base, system.chat(one, "tidy up"))
    own, alien = await last(system, base, session), await last(system, base, other)
    assert (await decide(system, base, session, answered(alien))).status == 404
    invented = answered(own)
    for part in invented["parts"]:
        if part["type"] == "tool-rm":
            part["approval"]["id"] = "apr_invented_0"
    assert (await decide(system, base, session, invented)).status == 404
    assert shell.ran == []
    denied = await decide(system, base, session, answered(own, approved=False))
    assert denied.text == "output-denied"
    assert (await decide(system, base, session, answered(own))).status == 409
    again = await decide(system, base, session, answered(own, approved=False))
    assert again.chunks == denied.chunks
    assert shell.ran == []
