"""One attempt at one run: the data and the output that the modules of `run` share.

Decides nothing and orders nothing: `executor` starts and ends the run, `model_step` calls models, and
`tool_calls` requests approvals and runs tools; each works on an `Attempt`.
"""

from collections.abc import Callable, Coroutine, Mapping
from itertools import count
from typing import Any

import msgspec
import structlog

from rejoin_adapters.ports.files import FileStore
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.process import tracing
from rejoin_adapters.process.background import DetachedTasks
from rejoin_adapters.store_types import Claim
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log.model_call import RecordedPart
from rejoin_protocol.log.record import Audience
from rejoin_protocol.money import to_usd
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.callers import NO_CALLERS, Callers
from rejoin_runner.agent.output_type import OutputType
from rejoin_runner.agent.team import AgentTeam, TeamMember
from rejoin_runner.mcp.toolbox import OwnAndRequestTools
from rejoin_runner.models.model import Model, ModelSettings, ModelUsage, Usage, UsageMeter
from rejoin_runner.models.prices import Prices
from rejoin_runner.models.usage_total import UsageTotal
from rejoin_runner.next_action import agent_stack
from rejoin_runner.next_action.agent_stack import AgentFrame
from rejoin_runner.next_action.run_state import RunState, usage_of
from rejoin_runner.output.event_writer import EventWriter
from rejoin_runner.output.journal import Journal
from rejoin_runner.run.earlier_messages import visible_history
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.tools.client_tool import to_client_tool
from rejoin_runner.tools.output_port import ArtifactStore
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import build_operation

DEADLINE = "deadline"
RUN_ERROR_CHARS_MAX = 16_384
DETAIL_BYTES_MAX = 65_536
"""The size of one value in an operation."""

type StoreCall = Callable[[RecordedPart], Coroutine[Any, Any, None]]

log = structlog.get_logger("rejoin.run")


class Attempt:
    """One attempt at one run."""

    def __init__(
        self,
        claim: Claim,
        team: AgentTeam,
        store: RunStore,
        journal: Journal,
        state: RunState,
        *,
        tasks: DetachedTasks,
        context: Any = None,
        artifacts: ArtifactStore | None = None,
        files: FileStore | None = None,
        metrics: RunnerMetrics,
        prices: Prices | None = None,
        store_call: StoreCall | None = None,
        now_ms: Callable[[], int],
    ) -> None:
        self.claim = claim
        self.run = claim.run
        self.head = team.head
        """The agent that the user's message was sent to. The limits of the run are this agent's."""
        self.store = store
        self.journal = journal
        self.state = state
        self.tasks = tasks
        """For models, loops and tools. They outlive the attempt if they ignore its end."""
        self.context = context
        """The request's context as an instance of the head's `context` type; None without such a type."""
        self.artifacts = artifacts
        self.files = files
        self.metrics = metrics
        self.store_call = store_call
        """Stores a record of a model's call. None: calls are not recorded."""
        self.call_numbers = count(1)
        self._prices = prices or Prices({})
        self.writer = EventWriter(journal, team.head.text_interval_s)
        self.now_ms = now_ms
        self.history = visible_history(claim.history, claim.waiting)
        self.meter: UsageMeter | None = None
        """Of the model call that is being made, or was cut off."""
        self.requests_stored = len(claim.approvals)
        """How many approval requests the run has: the next one's number."""
        self.names_agent = bool(team.head.handoffs) or agent_stack.has_handoff(claim.history)
        """Whether the message's metadata must say which agent it is from: see `agent_stack.current_agent`."""
        self._request_tools = {tool.name: to_client_tool(tool) for tool in claim.request_tools}
        self._team = team
        self._first_agent = agent_stack.current_agent(claim.history, team.head.name, team.members)
        self.log = log

    @property
    def agent(self) -> Agent:
        """The active agent, as the log shows it."""
        return self._member.agent

    @property
    def model(self) -> Model:
        """The active agent's model."""
        return self._member.model

    @property
    def tools(self) -> Mapping[str, Tool]:
        """The active agent's tools by name, with those that hand off and delegate, and those of the request
        if the agent takes them. The agent's own ones come first.
        """
        own, of_openai = self._member.tools, self.claim.request_options.has_openai_tools
        takes_them = self.agent.takes_tools or (of_openai and self.callers.tools)
        return OwnAndRequestTools(own, self._request_tools) if takes_them else own

    @property
    def output(self) -> OutputType | None:
        """The type of the active agent's answer: its own, else the one of the request, which the head has
        taken for the whole run. None: text.
        """
        is_asked = self.state.frames.top.call is None and self.agent.custom_loop is None
        taken = self.head.effective_callers if is_asked else NO_CALLERS
        return self._member.output or taken.output_type(self.claim.request_options)

    @property
    def callers(self) -> Callers:
        """What the request may set for the active agent. A delegated one is asked by another agent."""
        return self.agent.effective_callers if self.state.frames.top.call is None else NO_CALLERS

    @property
    def model_settings(self) -> ModelSettings:
        """How the active agent's model answers."""
        return self.callers.settings(self.agent.model_settings, self.claim.request_options)

    @property
    def fails_after_crash(self) -> bool:
        """Whether the active agent's step must fail, not start again, if a crash cut it off."""
        return self.agent.custom_loop is not None and self.agent.custom_loop.on_crash == "fail"

    @property
    def _member(self) -> TeamMember:
        return self._team.member(self.agent_of(self.state.frames.top))

    def agent_of(self, frame: AgentFrame) -> str:
        """The name of the agent of a frame's last step."""
        return frame.agent or self._first_agent

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Emit the run's next event; the writer paces text. Raises `EventTooLarge`."""
        await self.writer.write(chunk, audience)

    async def record_usage(self, *usages: Usage, **metadata: Any) -> None:
        """Add model calls' tokens and costs to the message's metadata, together with other `metadata`."""
        total = UsageTotal.parse(usage_of(self.state.message))
        for usage in usages:
            total = total.add(usage, await self.count_usage(usage))
        if total.cost is not None:
            tracing.annotate(run_cost_usd=to_usd(total.cost) or 0.0)
        await self.emit(chunks.MessageMetadata(message_metadata={**metadata, "usage": total.to_metadata()}))

    async def count_usage(self, usage: Usage) -> int | None:
        """Count a model call in the metrics. Returns its cost in nano-USD; None: the model has no price."""
        self.metrics.tokens_used(self.agent.name, usage)
        if not isinstance(usage, ModelUsage):
            return None
        cost = await self._prices.cost(usage)
        if cost is not None:
            self.metrics.money_spent(self.agent.name, str(usage.model), cost)
        return cost

    async def record_cut_off(self) -> None:
        """As `record_usage`, for a model call that was cut off: what it has cost so far, as an estimate."""
        usage = None if self.meter is None else self.meter.take()
        if usage is not None:
            await self.record_usage(usage)

    async def emit_operation(self, kind: str, **details: Any) -> None:
        """Emit a transient `data-operation` about the run, for everybody if the run's API documents it.
        Clients of these APIs read its data as `details` or as `ctx`.
        """
        data = {"type": kind, "details": details, "ctx": details}
        operation = chunks.Data(type="data-operation", data=data, transient=True)
        await self.emit(operation, self.run.operation_set.audience_of(kind))

    async def emit_detail(self, kind: str, label: str, **data: Any) -> None:
        """Emit a transient `data-operation` for clients that ask for operations, after any open text."""
        chunk = build_operation(kind, label, self.now_ms(), self.agent.name, _without_large(data))
        await self.writer.write_between_texts(chunk, Audience.OPERATIONS)

    async def fail(self, code: str, error: str) -> None:
        """Emit the run's failure: end the open parts, then an operation with `code`, then the error."""
        error = clip_error(error)
        await self.writer.flush()
        for chunk in self.state.closing_chunks():
            await self.emit(chunk)
        data = {
            "type": "error",
            "message": error,
            "agent": self.agent.name,
            "severity": "error",
            "code": code,
            "timestamp": self.now_ms(),
        }
        operation = chunks.Data(type="data-operation", data=data, transient=True)
        await self.emit(operation, self.run.operation_set.audience_of("error"))
        await self.emit(chunks.Error(error_text=error))


def _without_large(data: dict[str, Any]) -> dict[str, Any]:
    """The data of an operation without the values that are in the message anyway and are too large to be
    sent twice. `omitted` names them.
    """
    large = [name for name, value in data.items() if len(msgspec.json.encode(value)) > DETAIL_BYTES_MAX]
    kept = {name: value for name, value in data.items() if name not in large}
    return {**kept, "omitted": large} if large else kept


def clip_error(text: str) -> str:
    """An error text of an application or a provider, short enough for one event and valid as UTF-8."""
    return text[:RUN_ERROR_CHARS_MAX].encode(errors="replace").decode()
