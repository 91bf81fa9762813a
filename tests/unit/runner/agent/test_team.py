"""Which agents can reach each other, and the errors for invalid teams."""

from collections.abc import Callable

import msgspec
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import AgentTeam, build_team, collect_agents
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.models.model import ModelError, ModelRequest
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError
from tests.support.models.agent_teams import scripted_agent

BILLING = scripted_agent("billing", {})
RESEARCH = scripted_agent("research", {}, delegates=["billing"])


def crew(head: Agent) -> AgentTeam:
    return build_team(head, {name: DemoModel() for name in collect_agents(head)})


def test_targets_are_tools_with_their_descriptions() -> None:
    support = scripted_agent("support", {}, handoffs=[BILLING], delegates=[RESEARCH])
    tools = crew(support).member("support").tools
    assert list(tools) == ["transfer_to_billing", "delegate_to_research"]
    assert "The billing agent." in tools["transfer_to_billing"].spec.description
    assert "The research agent." in tools["delegate_to_research"].spec.description
    tools["transfer_to_billing"].check_arguments({})
    tools["delegate_to_research"].check_arguments({"task": "find it"})
    with pytest.raises(ToolError, match="task"):
        tools["delegate_to_research"].check_arguments({})


def test_agents_may_reach_each_other_in_a_circle() -> None:
    support = scripted_agent(
        "support", {}, handoffs=[scripted_agent("billing", {}, handoffs=["support"], delegates=["support"])]
    )
    assert list(crew(support).member("billing").tools) == ["transfer_to_support", "delegate_to_support"]


def test_one_agent_may_be_reached_on_two_ways() -> None:
    support = scripted_agent("support", {}, handoffs=[BILLING], delegates=[BILLING, RESEARCH])
    assert set(collect_agents(support)) == {"support", "billing", "research"}


def test_approval_of_a_transfer_and_of_a_delegation_is_the_agents_to_ask() -> None:
    support = scripted_agent("support", {}, delegates=[BILLING], needs_approval={"delegate_to_billing": True})
    assert support.needs_approval
    with pytest.raises(Invalid, match="no tool transfer_to_billing"):
        scripted_agent("support", {}, delegates=[BILLING], needs_approval={"transfer_to_billing": True})


async def test_an_agent_that_is_no_more_says_so_when_it_is_to_speak() -> None:
    gone = crew(BILLING).member("sales")
    assert (gone.agent.name, dict(gone.tools)) == ("sales", {})
    message = {"id": "m", "role": "assistant", "parts": []}
    with pytest.raises(ModelError, match="no agent sales"):
        await anext(gone.model.stream(ModelRequest("", [], message, [], 0)))


class Tenant(msgspec.Struct):
    name: str


@tool
async def transfer_to_mars() -> str:
    """Go."""
    return "gone"


WRONG: dict[str, tuple[Callable[[], object], str]] = {
    "two agents of one name": (
        lambda: collect_agents(
            scripted_agent("a", {}, handoffs=[BILLING], delegates=[scripted_agent("billing", {})])
        ),
        "agent a reaches two agents of the name billing",
    ),
    "one that nobody reaches": (
        lambda: collect_agents(scripted_agent("a", {}, handoffs=["sales"])),
        "agent a names the agent sales, which a does not reach",
    ),
    "one that only others reach": (
        lambda: collect_agents(RESEARCH),
        "agent research names the agent billing, which research does not reach",
    ),
    "a name that makes too long a tool": (
        lambda: collect_agents(scripted_agent("a", {}, handoffs=[scripted_agent("b" * 53, {})])),
        "may have 52 characters",
    ),
    "a tool of a name that leads to another agent": (
        lambda: scripted_agent("a", {}, tools=[transfer_to_mars]),
        "agent a has a tool transfer_to_mars: such names are for reaching other agents",
    ),
    "one agent twice": (
        lambda: scripted_agent("a", {}, delegates=[BILLING, "billing"]),
        "agent a names the agent billing twice",
    ),
    "one that wants another context": (
        lambda: collect_agents(scripted_agent("a", {}, handoffs=[scripted_agent("b", {}, context=Tenant)])),
        "agent b wants another context than a, in whose runs it works",
    ),
    "itself": (lambda: scripted_agent("a", {}, handoffs=["a"]), "agent a cannot hand over to itself"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_use_is_named_in_one_sentence(name: str) -> None:
    build, sentence = WRONG[name]
    with pytest.raises(Invalid, match=sentence):
        build()
