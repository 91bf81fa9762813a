"""What an application declares: an agent is a name, a model, instructions and tools, or a loop of its own."""

import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, agent_name
from rejoin_protocol.run_request import AgentEntry

from rejoin_runner.agent.custom_loop import CustomLoop
from rejoin_runner.agent.status_updates import StatusUpdates
from rejoin_runner.decision.agent_stack import DELEGATE, TRANSFER
from rejoin_runner.mcp.server import McpServer
from rejoin_runner.models.context_window import ContextWindow
from rejoin_runner.models.model import (
    Model,
    ModelKeyLookup,
    ModelSettings,
)
from rejoin_runner.tools.argument_schema import object_schema
from rejoin_runner.tools.tool import NeedsApproval, Tool, require_sync_approval
from rejoin_runner.tools.tool_context import RunContext, ToolContext

TEXT_INTERVAL_S = 0.04

type Instructions = str | Callable[[RunContext[Any]], str | Awaitable[str]]


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent. `model` is a `Model`, or `provider:name` for one that the runner opens at its start.

    `needs_approval` says by tool name what the tools themselves do not say. A deadline that passes ends the
    run with an error that everybody sees; None is none. Raises `Invalid` for a name that cannot stand in a
    URL and a subject, for two tools of one name, and for approvals of tools that it does not have.

    `handoffs` are agents that it may hand the conversation over to (`transfer_to_<name>`), `delegates` agents
    that it may give a task (`delegate_to_<name>`) and whose answer it gets; a string names an agent that is
    reached in another way, so that agents can reach each other. Deadlines for the turn, `context`, the
    interval, the updates and the two bounds below are those of the agent the run was asked of.
    """

    name: str
    model: Model | str
    instructions: Instructions = ""
    """A text, or a function of the run's context that makes one, async if it likes."""
    tools: Sequence[Tool] = ()
    mcp: Sequence[McpServer] = ()
    """Servers whose tools it has besides its own, as `<server>_<tool>`, while they are there."""
    handoffs: Sequence["Agent | str"] = ()
    delegates: Sequence["Agent | str"] = ()
    handoffs_max: int = 10
    """How often a run may be handed over."""
    delegation_depth_max: int = 5
    """How many agents may wait for each other."""
    context: type[msgspec.Struct] | None = None
    """What a request brings besides its message, in headers of the fields' names. For tools."""
    model_settings: ModelSettings = ModelSettings()
    """How the model is to answer."""
    model_keys: ModelKeyLookup | None = None
    """Whose key pays for a tenant's calls: `(tenant, provider) -> key`, async if it likes, asked at every
    call; None is the process's own. Also for the agents that it reaches and that have none themselves."""
    context_window: ContextWindow | None = None
    """How much of a long conversation the model is shown."""
    summarize_history: bool = False
    """Whether the model sums up what the window leaves out."""
    text_interval_s: float = TEXT_INTERVAL_S
    """Deltas of a text merge for so long, to whole words. 0: every token is an event."""
    status_updates: StatusUpdates | None = None
    custom_loop: CustomLoop | None = None
    """The application's own loop in the place of model and tools: see `agent`."""
    max_steps: int = 20
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
        self._check_kinds()
        _ = self.registry_entry  # its context can be written as a schema
        names = [tool.name for tool in self.tools]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Invalid(f"agent {self.name} has two tools of the name {twice[0]}")
        if taken := sorted(name for name in self.tools_by_name if name.startswith((TRANSFER, DELEGATE))):
            raise Invalid(
                f"agent {self.name} has a tool {taken[0]}: such names are for reaching other agents"
            )
        for server in self.mcp:
            if taken := sorted(name for name in self.tools_by_name if name.startswith(server.prefix)):
                raise Invalid(f"agent {self.name} has a tool {taken[0]}: such names are {server.name}'s")
        if len({server.name for server in self.mcp}) != len(self.mcp):
            raise Invalid(f"agent {self.name} has two MCP servers of one name")
        for names in (self.handoff_names, self.delegate_names):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise Invalid(f"agent {self.name} names the agent {twice[0]} twice")
        if self.name in self.handoff_names:
            raise Invalid(f"agent {self.name} cannot hand over to itself")
        prefixes = tuple(server.prefix for server in self.mcp)
        if unknown := {
            name
            for name in set(self.needs_approval) - set(self.tools_by_name) - self._routes
            if not name.startswith(prefixes)
        }:
            raise Invalid(f"agent {self.name} has no tool {', '.join(sorted(unknown))}")

    def _check_kinds(self) -> None:
        """What a type checker says too: else it would be found out in the middle of a run."""
        if not (isinstance(self.model, str) or hasattr(self.model, "stream")):
            raise Invalid(f"agent {self.name}: its model is neither `provider:name` nor a Model")
        tools: Sequence[object] = self.tools
        for one in tools:
            if not isinstance(one, Tool):
                name = getattr(one, "__name__", repr(one))
                raise Invalid(f"agent {self.name}: {name} is no tool, decorate it with @tool")
        for target in (*self.handoffs, *self.delegates):
            if not isinstance(target, Agent | str):
                raise Invalid(f"agent {self.name}: {target!r} is neither an Agent nor an agent's name")
        context: object = self.context
        if context is not None and not (isinstance(context, type) and issubclass(context, msgspec.Struct)):
            raise Invalid(f"agent {self.name}: its context is no subclass of msgspec.Struct")
        if not isinstance(self.model_settings, ModelSettings):
            raise Invalid(f"agent {self.name}: its settings are no ModelSettings")
        for tool, approval in self.needs_approval.items():
            require_sync_approval(f"agent {self.name}, tool {tool}", approval)
        if self.max_steps < 1:
            raise Invalid(f"agent {self.name}: max_steps is at least 1")

    @property
    def handoff_names(self) -> list[str]:
        """Whom it may hand over to."""
        return [one if isinstance(one, str) else one.name for one in self.handoffs]

    @property
    def delegate_names(self) -> list[str]:
        """Whom it may delegate to."""
        return [one if isinstance(one, str) else one.name for one in self.delegates]

    @property
    def _routes(self) -> set[str]:
        """The names of the tools that lead to other agents."""
        transfers = {TRANSFER + name for name in self.handoff_names}
        return transfers | {DELEGATE + name for name in self.delegate_names}

    @property
    def tools_by_name(self) -> Mapping[str, Tool]:
        """The tools by name."""
        return {tool.name: tool for tool in self.tools}

    def _approval(self, tool: Tool) -> NeedsApproval[Any]:
        if tool.needs_approval is not None:
            return tool.needs_approval
        return self.needs_approval.get(tool.name, False)

    def needs_approval_for(self, tool: Tool, input: Any, context: ToolContext[Any]) -> bool:
        """Whether a call needs a person's word: what its tool says, else what the agent says."""
        approval = self._approval(tool)
        said: object = approval if isinstance(approval, bool) else approval(input, context)
        if inspect.iscoroutine(said):  # of a function that did not look async
            said.close()
            raise TypeError("needs_approval returned a coroutine")
        return bool(said)

    def retries_after_crash(self, tool: Tool) -> bool:
        """Whether a call that a dead worker may have begun is made again."""
        if tool.on_crash is not None:
            return tool.on_crash == "retry"
        return self._approval(tool) is False

    @property
    def registry_entry(self) -> AgentEntry:
        """What the registry says of it."""
        try:
            schema = None if self.context is None else object_schema(self.context)
        except TypeError as fault:
            reason = str(fault).splitlines()[0]
            raise Invalid(f"agent {self.name}: its context cannot be written as JSON ({reason})") from fault
        return AgentEntry(AgentName(self.name), self.description, schema)
