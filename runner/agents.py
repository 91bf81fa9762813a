"""What an application declares: an agent is a name, a model, instructions and tools."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from protocol.commands import AgentEntry
from protocol.errors import Invalid
from protocol.ids import AgentName, agent_name
from runner.models.port import Model
from runner.tools import Tool


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. `model` is a `Model`, or `provider:name` for one that the runner opens at its start.

    Raises `Invalid` for a name that cannot stand in a URL and a subject, and for two tools of one name.
    """

    name: str
    model: Model | str
    instructions: str = ""
    tools: Sequence[Tool] = ()
    steps_max: int = 20
    description: str = ""

    def __post_init__(self) -> None:
        agent_name(self.name)
        if len(self.toolbox) != len(self.tools):
            raise Invalid(f"agent {self.name} has two tools of one name")

    @property
    def toolbox(self) -> Mapping[str, Tool]:
        """The tools by name."""
        return {tool.name: tool for tool in self.tools}

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
