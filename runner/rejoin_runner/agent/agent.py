"""`Agent`: what an application declares: a name, a model, instructions and tools, or a custom loop."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Literal

import msgspec
from typing_extensions import TypeVar

from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, agent_name
from rejoin_protocol.run_request import AgentEntry, ExecutionMode
from rejoin_runner.agent.callers import NO_CALLERS, Callers
from rejoin_runner.agent.custom_loop import CustomLoop
from rejoin_runner.agent.output_type import OutputType, describe_output
from rejoin_runner.agent.status_settings import StatusUpdates
from rejoin_runner.mcp.server_declaration import McpServer
from rejoin_runner.models.context_window import ContextWindow
from rejoin_runner.models.model import OUTPUT_TOOL, Model, ModelKeyLookup, ModelSettings
from rejoin_runner.next_action.agent_stack import DELEGATE, TRANSFER
from rejoin_runner.tools.argument_schema import object_schema
from rejoin_runner.tools.client_tool import ClientTool
from rejoin_runner.tools.tool import NeedsApproval, Tool
from rejoin_runner.tools.tool_context import RunContext, ToolContext

TEXT_INTERVAL_S = 0.04
SUGGESTIONS_MAX = 8
SUGGESTION_CHARS_MAX = 200

type Instructions[C] = str | Callable[[RunContext[C]], str | Awaitable[str]]
C = TypeVar("C", default=Any)
"""The type of the request context. `Agent` alone is `Agent[Any]`."""


class Agent(msgspec.Struct, Generic[C], frozen=True, kw_only=True):
    """An agent that a runner serves.

    Several agents may work in one run. `context`, `text_interval_s`, `status_updates`, `timeout_s`,
    `handoffs_max` and `delegation_depth_max` are those of the agent that received the message; everything
    else is taken from the agent that works.

    Attributes:
        name: Names the agent in URLs and subjects: 1 to 64 letters, digits, `-` and `_`.
        model: A `Model`, or `provider:name` for a model that the runner opens at its start. Several of
            these, separated by commas, are tried in order.
        instructions: A text, or a function of the `RunContext` that returns one; it may be async. Default:
            none.
        tools: The tools, made by the decorator `tool`. Default: none.
        client_tools: Whether a request may bring client tools of its own (`request`), or the agent has only
            those in `tools` (`declared`). Requests to the agent that received the message may bring some; an
            agent that works in the same run has them if it says the same. OpenAI's clients may also bring
            some if `callers` says so. Default: `declared`.
        callers: What the requests of OpenAI's clients may set for their own run; None: nothing. An agent that
            works in the same run says it for itself, but for the form of the answer. Default: all, see
            `Callers`.
        mcp: MCP servers whose tools the agent has too, as `<server>_<tool>`, while the server is connected.
            Default: none.
        handoffs: Agents to which it may hand the conversation over, with the tool `transfer_to_<name>`. A
            string names an agent that is reached in another way; so two agents can name each other.
            Default: none.
        delegates: Agents to which it may give a task, and whose answer it gets, with the tool
            `delegate_to_<name>`. A string as in `handoffs`. Default: none.
        handoffs_max: How often one run may be handed over. Default: 10.
        delegation_depth_max: How many agents may wait for each other's answers. Default: 5.
        context: A `msgspec.Struct` type: what a request brings for tools besides its message, in HTTP headers
            named like the fields. Default: None, no context.
        model_settings: How the model answers: see `ModelSettings`. Default: the provider's defaults.
        model_keys: Looks up the API key that a tenant's model calls use: `(tenant, provider) -> key`, may be
            async, called for every model call; None as the key means the process's own. It also applies to
            the agents that this one reaches and that have no `model_keys`. Default: the process's own key.
        output: What an answer is: a struct, dataclass, `TypedDict`, pydantic model, or a JSON schema of type
            object. The answer is then the part `data-output` in place of text. Default: None, text.
        output_retries: How often an answer that does not fit `output` goes back to the model before the run
            fails. Default: 2.
        context_window: How much of a long conversation the model is shown. Default: everything.
        summarize_history: Whether the model summarizes what `context_window` drops. Default: False.
        text_interval_s: Seconds for which text deltas are merged into one event; of a fast model in whole
            words. 0: every delta is an event. Default: 0.04.
        status_updates: When the progress of a run is summarized. Default: never.
        custom_loop: A loop in place of model and tools: use the decorator `agent`. Default: None.
        max_steps: How many times the model may be called in one turn. Default: 20.
        description: What the agent does, for the clients that list agents and for agents that reach it.
            Default: empty.
        suggestions: What one may ask it: messages of up to 200 characters that a chat page offers before the
            first one, at most 8. Default: none.
        needs_approval: By tool name, whether a person must approve a call, for tools that do not say it
            themselves: True, False, or a function of the arguments and the `ToolContext`, which may be async.
            Default: no tool needs approval.
        approval_timeout_s: Seconds after which an open approval counts as denied. Default: None, no limit.
        execution_mode: Whether the run API ends its response when a run waits for approvals (`durable`) or
            keeps it open (`classic`), for requests that do not say it. Default: `durable`.
        step_timeout_s: Seconds for one response of the model. Default: None, no limit.
        timeout_s: Seconds for one attempt at one turn of a run, not counting the time in which it waits for
            an approval. Default: None, no limit.

    A deadline that passes ends the run with an error that the users see.

    Raises `Invalid` if the name has another form, if a value has the wrong type, if two tools have one name,
    if a tool's name is reserved for agents or an MCP server, or if `needs_approval` names a missing tool.
    """

    name: str
    model: Model | str
    instructions: Instructions[C] = ""
    tools: Sequence[Tool[C]] = ()
    client_tools: Literal["declared", "request"] = "declared"
    callers: Callers | None = Callers()
    mcp: Sequence[McpServer] = ()
    handoffs: Sequence["Agent | str"] = ()
    delegates: Sequence["Agent | str"] = ()
    handoffs_max: int = 10
    delegation_depth_max: int = 5
    context: type[C] | None = None
    model_settings: ModelSettings = ModelSettings()
    model_keys: ModelKeyLookup | None = None
    output: Any = None
    output_retries: int = 2
    context_window: ContextWindow | None = None
    summarize_history: bool = False
    text_interval_s: float = TEXT_INTERVAL_S
    status_updates: StatusUpdates | None = None
    custom_loop: CustomLoop | None = None
    max_steps: int = 20
    description: str = ""
    suggestions: Sequence[str] = ()
    needs_approval: Mapping[str, NeedsApproval[Any]] = {}
    approval_timeout_s: float | None = None
    execution_mode: ExecutionMode = "durable"
    step_timeout_s: float | None = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        agent_name(self.name)
        self._check_types()
        _ = self.registry_entry  # raises if the context cannot be written as a schema
        self._check_tool_names()
        self._check_output()
        self._check_targets()
        self._check_approvals()

    def _check_types(self) -> None:
        """A type checker finds these too; without one they would fail in the middle of a run."""
        if not (isinstance(self.model, str) or hasattr(self.model, "stream")):
            raise Invalid(f"agent {self.name}: its model is neither `provider:name` nor a Model")
        tools: Sequence[object] = self.tools
        for tool in tools:
            if not isinstance(tool, Tool):
                name = getattr(tool, "__name__", repr(tool))
                raise Invalid(f"agent {self.name}: {name} is no tool, decorate it with @tool")
        for target in (*self.handoffs, *self.delegates):
            if not isinstance(target, Agent | str):
                raise Invalid(f"agent {self.name}: {target!r} is neither an Agent nor an agent's name")
        context: object = self.context
        if context is not None and not (isinstance(context, type) and issubclass(context, msgspec.Struct)):
            raise Invalid(f"agent {self.name}: its context is no subclass of msgspec.Struct")
        if not isinstance(self.model_settings, ModelSettings):
            raise Invalid(f"agent {self.name}: its model_settings are no ModelSettings")
        if not isinstance(self.callers, Callers | None):
            raise Invalid(f"agent {self.name}: its callers are no Callers")
        for tool in self.tools:
            if context is not None and tool.context_type is not None:
                check_tool_context(self.name, tool, context)
        if self.client_tools not in {"declared", "request"}:
            raise Invalid(f"agent {self.name}: client_tools is `declared` or `request`")
        if self.takes_tools and self.custom_loop is not None:
            raise Invalid(f"agent {self.name}: a custom loop has its own tools, so no request brings any")
        if self.max_steps < 1:
            raise Invalid(f"agent {self.name}: max_steps is at least 1")
        self._check_suggestions()

    def _check_suggestions(self) -> None:
        suggestions: object = self.suggestions
        if isinstance(suggestions, str) or not all(isinstance(one, str) for one in self.suggestions):
            raise Invalid(f"agent {self.name}: suggestions is a list of texts")
        if len(self.suggestions) > SUGGESTIONS_MAX:
            raise Invalid(f"agent {self.name}: it has at most {SUGGESTIONS_MAX} suggestions")
        if not all(0 < len(one.strip()) <= len(one) <= SUGGESTION_CHARS_MAX for one in self.suggestions):
            raise Invalid(f"agent {self.name}: a suggestion has 1 to {SUGGESTION_CHARS_MAX} characters")

    def _check_tool_names(self) -> None:
        if duplicate := _first_duplicate([tool.name for tool in self.tools]):
            raise Invalid(f"agent {self.name} has two tools of the name {duplicate}")
        if reserved := sorted(name for name in self.tools_by_name if name.startswith((TRANSFER, DELEGATE))):
            raise Invalid(
                f"agent {self.name} has a tool {reserved[0]}: such names are for reaching other agents"
            )
        for server in self.mcp:
            if reserved := sorted(name for name in self.tools_by_name if name.startswith(server.prefix)):
                raise Invalid(f"agent {self.name} has a tool {reserved[0]}: such names are {server.name}'s")
        if len({server.name for server in self.mcp}) != len(self.mcp):
            raise Invalid(f"agent {self.name} has two MCP servers of one name")

    def _check_output(self) -> None:
        if self.output is None:
            return
        _ = self.output_type  # raises if it cannot be written as JSON
        if self.custom_loop is not None:
            raise Invalid(f"agent {self.name}: a custom loop has no output type")
        if self.output_retries < 0:
            raise Invalid(f"agent {self.name}: output_retries is at least 0")
        if OUTPUT_TOOL in self.tools_by_name:
            raise Invalid(f"agent {self.name} has a tool {OUTPUT_TOOL}: that is how a model gives its output")

    @property
    def output_type(self) -> OutputType | None:
        """The type of the answer. Raises `Invalid` as the agent's declaration does."""
        return None if self.output is None else describe_output(self.name, self.output)

    def _check_targets(self) -> None:
        for names in (self.handoff_names, self.delegate_names):
            if duplicate := _first_duplicate(names):
                raise Invalid(f"agent {self.name} names the agent {duplicate} twice")
        if self.name in self.handoff_names:
            raise Invalid(f"agent {self.name} cannot hand over to itself")

    def _check_approvals(self) -> None:
        prefixes = tuple(server.prefix for server in self.mcp)
        known = set(self.tools_by_name) | self._agent_tool_names
        if unknown := sorted(
            name for name in set(self.needs_approval) - known if not name.startswith(prefixes)
        ):
            raise Invalid(f"agent {self.name} has no tool {', '.join(unknown)}")

    @property
    def handoff_names(self) -> list[str]:
        """The names of the agents in `handoffs`."""
        return [target if isinstance(target, str) else target.name for target in self.handoffs]

    @property
    def delegate_names(self) -> list[str]:
        """The names of the agents in `delegates`."""
        return [target if isinstance(target, str) else target.name for target in self.delegates]

    @property
    def _agent_tool_names(self) -> set[str]:
        """The names of the tools that lead to other agents."""
        transfers = {TRANSFER + name for name in self.handoff_names}
        return transfers | {DELEGATE + name for name in self.delegate_names}

    @property
    def takes_tools(self) -> bool:
        """Whether a request may bring client tools."""
        return self.client_tools == "request"

    @property
    def effective_callers(self) -> Callers:
        """`callers` without what has no effect: a custom loop is given none of it."""
        return NO_CALLERS if self.callers is None or self.custom_loop is not None else self.callers

    @property
    def _reserved_tools(self) -> list[str]:
        """The names that the tools of a request must not have, see `request_tools.find_reserved`. A client
        tool that the agent declares is none of them: clients send every tool that they can run.
        """
        own = [tool.name for tool in self.tools if not isinstance(tool, ClientTool)]
        begins = [TRANSFER, DELEGATE, *(server.prefix for server in self.mcp)]
        return [*own, OUTPUT_TOOL, *(f"{begin}*" for begin in begins)]

    @property
    def tools_by_name(self) -> Mapping[str, Tool]:
        """The agent's own tools, without those of its MCP servers."""
        return {tool.name: tool for tool in self.tools}

    def approval_policy(self, tool: Tool) -> NeedsApproval[Any]:
        """Whether a person must approve the tool's calls: the tool says it, else the agent."""
        if tool.needs_approval is not None:
            return tool.needs_approval
        return self.needs_approval.get(tool.name, False)

    async def needs_approval_for(self, tool: Tool, input: Any, context: ToolContext[Any]) -> bool:
        """Whether a person must approve this call: the tool's policy decides, else the agent's. Raises what
        the policy raises.
        """
        policy = self.approval_policy(tool)
        answer = policy if isinstance(policy, bool) else policy(input, context)
        return bool(await answer if isinstance(answer, Awaitable) else answer)

    def retries_after_crash(self, tool: Tool) -> bool:
        """Whether a call that a crashed worker may have started is made again."""
        if tool.on_crash is not None:
            return tool.on_crash == "retry"
        return self.approval_policy(tool) is False

    @property
    def registry_entry(self) -> AgentEntry:
        """What the agent registry stores: name, description and the context's JSON schema.

        Raises `Invalid` if the context has a field whose type JSON does not have.
        """
        try:
            schema = None if self.context is None else object_schema(self.context)
        except TypeError as fault:
            reason = str(fault).splitlines()[0]
            raise Invalid(f"agent {self.name}: its context cannot be written as JSON ({reason})") from fault
        return AgentEntry(
            AgentName(self.name),
            self.description,
            schema,
            execution_mode=self.execution_mode,
            takes_tools=self.takes_tools,
            suggestions=tuple(self.suggestions),
            reserved_tools=self._reserved_tools if self.takes_tools or self.effective_callers.tools else (),
            callers=[
                option for option in self.effective_callers.takes if option != "output" or self.output is None
            ],
        )


def check_tool_context(agent: str, tool: Tool[Any], context: type | None) -> None:
    """Raises `Invalid` if the tool reads another context than runs have. `context` None: runs have none."""
    wanted = tool.context_type
    if wanted is None or (context is not None and issubclass(context, wanted)):
        return
    has = "runs without a context" if context is None else f"has the context {context.__name__}"
    raise Invalid(f"agent {agent} {has}, and its tool {tool.name} reads the context {wanted.__name__}")


def _first_duplicate(names: Sequence[str]) -> str | None:
    return min((name for name in names if names.count(name) > 1), default=None)
