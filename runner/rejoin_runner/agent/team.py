"""The agents that one agent can reach by handing over and delegating, and the tools that lead to them.

Owns the checks of the whole crew, which no agent can make alone, and makes a target a tool. Agents may reach
each other in circles: transfers are counted in a run, and delegation is bounded in depth. Only the agent at
the head of a crew is known to the broker; the others work in its runs.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
from rejoin_protocol.errors import Invalid

from rejoin_runner.agent.agent import Agent
from rejoin_runner.decision.agent_stack import DELEGATE, TRANSFER
from rejoin_runner.mcp.remote_tool import TOOL_NAME_CHARS_MAX
from rejoin_runner.mcp.toolbox import ServerTools, Toolbox
from rejoin_runner.models.missing_model import MissingModel
from rejoin_runner.models.model import Model
from rejoin_runner.tools.decorator import tool
from rejoin_runner.tools.tool import Tool


class TeamMember(msgspec.Struct, frozen=True):
    """An agent that is ready to work: its opened model, and its tools with those that lead to others."""

    agent: Agent
    model: Model
    tools: Mapping[str, Tool]


class AgentTeam(msgspec.Struct, frozen=True):
    """An agent and all that it reaches, itself among them, by name."""

    head: Agent
    members: Mapping[str, TeamMember]

    def member(self, name: str) -> TeamMember:
        """The agent of this name. A run may name one that a newer version of the application does not have:
        it has no tools, and fails when it is to speak.
        """
        if (member := self.members.get(name)) is not None:
            return member
        gone = MissingModel(f"There is no agent {name} any more.")
        return TeamMember(Agent(name=name, model=gone), gone, {})

    def with_wrapped_models(self, wrap: Callable[[Model], Model]) -> "AgentTeam":
        """The same agents, their models wrapped."""
        wrapped = {
            name: msgspec.structs.replace(member, model=wrap(member.model))
            for name, member in self.members.items()
        }
        return AgentTeam(self.head, wrapped)


def build_team(
    head: Agent, models: Mapping[str, Model], sources: Mapping[str, Sequence[ServerTools]] | None = None
) -> AgentTeam:
    """The crew that an agent is the head of. By the agents' names, `models` has the opened model of each and
    `sources` the MCP servers of those that have some.
    """
    agents, remote = collect_agents(head), sources or {}
    members = {
        name: TeamMember(agent, models[name], Toolbox(_tools(agent, agents), remote.get(name, ())))
        for name, agent in agents.items()
    }
    return AgentTeam(head, members)


def collect_agents(head: Agent) -> dict[str, Agent]:
    """The agent and those it can reach, by name. Raises `Invalid` in one sentence for what cannot work."""
    found: dict[str, Agent] = {}
    waiting = [head]
    while waiting:
        agent = waiting.pop()
        if agent.name in found:
            if found[agent.name] is not agent:
                raise Invalid(f"agent {head.name} reaches two agents of the name {agent.name}")
            continue
        found[agent.name] = agent
        waiting += [target for target in (*agent.handoffs, *agent.delegates) if isinstance(target, Agent)]
    for agent in found.values():
        _check(agent, head, found)
    return found


def _check(agent: Agent, head: Agent, found: Mapping[str, Agent]) -> None:
    if agent.context is not None and agent.context is not head.context:
        raise Invalid(f"agent {agent.name} wants another context than {head.name}, in whose runs it works")
    for name in (*agent.handoff_names, *agent.delegate_names):
        if name not in found:
            raise Invalid(f"agent {agent.name} names the agent {name}, which {head.name} does not reach")
        if len(DELEGATE) + len(name) > TOOL_NAME_CHARS_MAX:
            room = TOOL_NAME_CHARS_MAX - len(DELEGATE)
            raise Invalid(f"agent {name} is reached by other agents: its name may have {room} characters")


def _tools(agent: Agent, agents: Mapping[str, Agent]) -> dict[str, Tool]:
    transfers = [_transfer(agents[name]) for name in agent.handoff_names]
    delegations = [_delegation(agents[name]) for name in agent.delegate_names]
    return dict(agent.tools_by_name) | {one.name: one for one in (*transfers, *delegations)}


def _transfer(target: Agent) -> Tool:
    async def transfer() -> str:
        return f"{target.name} has the conversation now."

    transfer.__doc__ = f"Hand the conversation over to {target.name}. {target.description}".strip()
    return tool(name=TRANSFER + target.name, on_crash="retry")(transfer)


def _delegation(target: Agent) -> Tool:
    async def delegate(task: str) -> str:
        raise AssertionError(task)  # never called: its frame makes its output

    delegate.__doc__ = (
        f"Let {target.name} do a task and return its answer. It knows nothing but the task. "
        f"{target.description}"
    ).strip()
    return tool(name=DELEGATE + target.name, on_crash="retry")(delegate)
