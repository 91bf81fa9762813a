"""An agent and all agents that it reaches by handoffs and delegation.

Owns the checks that one agent cannot make alone, and makes each target a tool (`transfer_to_…`,
`delegate_to_…`). Agents may reach each other in circles: handoffs are counted per run, delegation is bounded
in depth. Only the head of a team is registered with the broker; the others work in its runs.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_runner.agent.agent import Agent, check_tool_context
from rejoin_runner.agent.output_type import OutputType
from rejoin_runner.mcp.remote_tool import TOOL_NAME_CHARS_MAX
from rejoin_runner.mcp.toolbox import ServerTools, Toolbox
from rejoin_runner.models.missing_model import MissingModel
from rejoin_runner.models.model import Model
from rejoin_runner.next_action.agent_stack import DELEGATE, TRANSFER
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import tool


class TeamMember(msgspec.Struct, frozen=True):
    """An agent with its opened model and all its tools."""

    agent: Agent
    model: Model
    tools: Mapping[str, Tool]
    """By name: the agent's own, those of its MCP servers, and those that lead to other agents."""
    output: OutputType | None = None


class AgentTeam(msgspec.Struct, frozen=True):
    """A head and all agents that it reaches."""

    head: Agent
    members: Mapping[str, TeamMember]
    """By name; the head is one of them."""

    def member(self, name: str) -> TeamMember:
        """The member of this name.

        A stored run may name an agent that the application no longer has. Its member has no tools, and its
        model fails with an error that names it.
        """
        if (member := self.members.get(name)) is not None:
            return member
        missing = MissingModel(f"There is no agent {name} any more.")
        return TeamMember(Agent(name=name, model=missing), missing, {})

    def with_wrapped_models(self, wrap: Callable[[Model], Model]) -> "AgentTeam":
        """The same team, each model replaced by `wrap(model)`."""
        members = {
            name: msgspec.structs.replace(member, model=wrap(member.model))
            for name, member in self.members.items()
        }
        return AgentTeam(self.head, members)


def build_team(
    head: Agent, models: Mapping[str, Model], mcp_tools: Mapping[str, Sequence[ServerTools]] | None = None
) -> AgentTeam:
    """The team of `head`. By agent name, `models` has each agent's opened model and `mcp_tools` the tools of
    the MCP servers of the agents that have some. Raises `Invalid` as `collect_agents` does.
    """
    agents, servers = collect_agents(head), mcp_tools or {}
    members = {
        name: TeamMember(
            agent,
            models[name],
            Toolbox(_local_tools(agent, agents), servers.get(name, ())),
            agent.output_type,
        )
        for name, agent in agents.items()
    }
    return AgentTeam(head, members)


def collect_agents(head: Agent) -> dict[str, Agent]:
    """The agent and all agents that it reaches, by name.

    Raises `Invalid` if two different agents have one name, if an agent names one that the head does not
    reach, has another context type than the head, or has a name that is too long for a tool name.
    """
    agents: dict[str, Agent] = {}
    waiting = [head]
    while waiting:
        agent = waiting.pop()
        if agent.name in agents:
            if agents[agent.name] is not agent:
                raise Invalid(f"agent {head.name} reaches two agents of the name {agent.name}")
            continue
        agents[agent.name] = agent
        waiting += [target for target in (*agent.handoffs, *agent.delegates) if isinstance(target, Agent)]
    for agent in agents.values():
        _check_member(agent, head, agents)
    return agents


def _check_member(agent: Agent, head: Agent, agents: Mapping[str, Agent]) -> None:
    if agent.context is not None and agent.context is not head.context:
        raise Invalid(f"agent {agent.name} wants another context than {head.name}, in whose runs it works")
    for one in agent.tools:
        check_tool_context(agent.name, one, head.context)
    for name in (*agent.handoff_names, *agent.delegate_names):
        if name not in agents:
            raise Invalid(f"agent {agent.name} names the agent {name}, which {head.name} does not reach")
        if len(DELEGATE) + len(name) > TOOL_NAME_CHARS_MAX:
            name_chars_max = TOOL_NAME_CHARS_MAX - len(DELEGATE)
            raise Invalid(
                f"agent {name} is reached by other agents: its name may have {name_chars_max} characters"
            )


def _local_tools(agent: Agent, agents: Mapping[str, Agent]) -> dict[str, Tool]:
    transfers = [_transfer_tool(agents[name]) for name in agent.handoff_names]
    delegations = [_delegation_tool(agents[name]) for name in agent.delegate_names]
    return dict(agent.tools_by_name) | {item.name: item for item in (*transfers, *delegations)}


def _transfer_tool(target: Agent) -> Tool:
    async def transfer() -> str:
        return f"{target.name} has the conversation now."

    transfer.__doc__ = f"Hand the conversation over to {target.name}. {target.description}".strip()
    return tool(name=TRANSFER + target.name, on_crash="retry")(transfer)


def _delegation_tool(target: Agent) -> Tool:
    async def delegate(task: str) -> str:
        raise AssertionError(task)  # never called: the executor runs the target agent instead

    delegate.__doc__ = (
        f"Let {target.name} do a task and return its answer. It knows nothing but the task. "
        f"{target.description}"
    ).strip()
    return tool(name=DELEGATE + target.name, on_crash="retry")(delegate)
