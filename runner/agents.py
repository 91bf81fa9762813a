"""What an application declares: an agent is a name, a model, instructions and tools."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from protocol.commands import AgentEntry
from protocol.errors import Invalid
from protocol.ids import AgentName, agent_name
from runner.models.port import Model
from runner.tools import NeedsApproval, Tool, ToolContext


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. `model` is a `Model`, or `provider:name` for one that the runner opens at its start.

    `needs_approval` says by tool name what the tools themselves do not say. A deadline that passes ends the
    run with an error that everybody sees; None is none. Raises `Invalid` for a name that cannot stand in a
    URL and a subject, for two tools of one name, and for approvals of tools that it does not have.
    """

    name: str
    model: Model | str
    instructions: str = ""
    tools: Sequence[Tool] = ()
    steps_max: int = 20
    description: str = ""
    needs_approval: Mapping[str, NeedsApproval[Any]] = {}
    approval_timeout_s: float | None = None
    """How long a question stays open; then it counts as denied."""
    step_timeout_s: float | None = None
    """For one response of the model."""
    timeout_s: float | None = None
    """For one attempt at one turn of a run: waiting for a person does not count."""

    def __post_init__(self) -> None:
        agent_name(self.name)
        if len(self.toolbox) != len(self.tools):
            raise Invalid(f"agent {self.name} has two tools of one name")
        if unknown := set(self.needs_approval) - set(self.toolbox):
            raise Invalid(f"agent {self.name} has no tool {', '.join(sorted(unknown))}")

    @property
    def toolbox(self) -> Mapping[str, Tool]:
        """The tools by name."""
        return {tool.name: tool for tool in self.tools}

    def _approval(self, tool: Tool) -> NeedsApproval[Any]:
        if tool.needs_approval is not None:
            return tool.needs_approval
        return self.needs_approval.get(tool.name, False)

    def asks(self, tool: Tool, input: Any, context: ToolContext[Any]) -> bool:
        """Whether a call needs a person's word: what its tool says, else what the agent says."""
        approval = self._approval(tool)
        return approval if isinstance(approval, bool) else approval(input, context)

    def retries(self, tool: Tool) -> bool:
        """Whether a call that a dead worker may have begun is made again."""
        if tool.on_crash is not None:
            return tool.on_crash == "retry"
        return self._approval(tool) is False

    @property
    def entry(self) -> AgentEntry:
        """What the registry says of it."""
        return AgentEntry(AgentName(self.name), self.description)


def agents_of(value: Any) -> list[Agent]:
    """One agent, or several in a list. Raises `Invalid` for anything else and for two of one name."""
    agents = [value] if isinstance(value, Agent) else value
    if not isinstance(agents, Sequence) or not agents or not all(isinstance(one, Agent) for one in agents):
        raise Invalid("expected an Agent or a list of Agents")
    if len({agent.name for agent in agents}) != len(agents):
        raise Invalid("two agents have one name")
    return list(agents)
