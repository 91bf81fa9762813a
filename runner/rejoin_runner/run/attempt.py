"""One attempt at one run: what those who work on it share, and the ways they have to say something.

Owns no decision and no order of effects: `loop` begins and ends the run, `respond` lets the model speak,
`acting` asks people and calls tools, and each of them does it on an `Attempt`.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import structlog
from rejoin_adapters.ports.files import FileStore
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.records import Claim
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log.record import Audience

from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import AgentTeam, TeamMember
from rejoin_runner.decision import agent_stack
from rejoin_runner.decision.agent_stack import AgentFrame
from rejoin_runner.decision.run_state import RunState, usage_of
from rejoin_runner.models.model import Model, Usage
from rejoin_runner.output.event_writer import EventWriter
from rejoin_runner.output.journal import Journal
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.tools.output_port import ArtifactStore
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import build_operation

DEADLINE = "deadline"
ERROR_CHARS_MAX = 16_384
ALWAYS = frozenset({"inputTokens", "outputTokens", "totalTokens"})


class ForeignCancellation(Exception):
    """Something that a tool or a model waited for was cancelled, and not by us."""


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
        context: Any = None,
        artifacts: ArtifactStore | None = None,
        files: FileStore | None = None,
        metrics: RunnerMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self.claim = claim
        self.run = claim.run
        self.head = team.head
        """The agent that the run was asked of."""
        self.store = store
        self.journal = journal
        self.state = state
        self.context = context
        """What the request brought, as the head's `context`; None if it wants none."""
        self.artifacts = artifacts
        self.files = files
        self.metrics = metrics
        self.writer = EventWriter(journal, team.head.text_interval_s)
        self.now_ms = now_ms
        self.history = [
            agent_stack.view(turn, None) if turn["role"] == "assistant" else turn for turn in claim.history
        ]
        """The earlier turns as the conversation's agents see them."""
        self._team = team
        self._first = agent_stack.speaker(claim.history, team.head.name, team.members)
        self.log = structlog.get_logger("rejoin.loop")

    @property
    def agent(self) -> Agent:
        """The agent that works, as the log has it."""
        return self._member.agent

    @property
    def model(self) -> Model:
        """Its model."""
        return self._member.model

    @property
    def tools(self) -> Mapping[str, Tool]:
        """Its tools by name, with those that lead to other agents."""
        return self._member.tools

    @property
    def fails_after_crash(self) -> bool:
        """Whether the agent that works must not be begun again in a step that a dead worker had begun."""
        return self.agent.custom_loop is not None and self.agent.custom_loop.on_crash == "fail"

    @property
    def _member(self) -> TeamMember:
        return self._team.member(self.name_of(self.state.frames.top))

    def name_of(self, frame: AgentFrame) -> str:
        """Whose the last step of a frame is."""
        return frame.agent or self._first

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """The run's next event, text in its own time."""
        await self.writer.write(chunk, audience)

    async def record_usage(self, usage: Usage, **more: Any) -> None:
        """Say what a model's answer has cost, on top of what the message has cost so far. `more` is metadata.
        Cached and reasoning tokens are told where the provider tells them.
        """
        self.metrics.used(self.agent.name, usage)
        total = (Usage.parse(usage_of(self.state.message)) + usage).to_metadata()
        told = {name: count for name, count in total.items() if count or name in ALWAYS}
        await self.emit(chunks.MessageMetadata(message_metadata={**more, "usage": told}))

    async def emit_operation(self, kind: str, **details: Any) -> None:
        """Say what is going on."""
        await self.emit(chunks.Data(type="data-operation", data={"type": kind, "details": details}))

    async def emit_detail(self, kind: str, label: str, **data: Any) -> None:
        """Say more of what is going on, to those who want to know."""
        said = build_operation(kind, label, self.now_ms(), self.agent.name, data)
        await self.writer.write_between_texts(said, Audience.OPERATIONS)

    async def fail(self, code: str, text: str) -> None:
        """The run has failed: close what is open, and say so."""
        text = worded(text)
        await self.writer.flush()
        for chunk in self.state.closing():
            await self.emit(chunk)
        data = {
            "type": "error",
            "message": text,
            "agent": self.agent.name,
            "severity": "error",
            "code": code,
            "timestamp": self.now_ms(),
        }
        await self.emit(chunks.Data(type="data-operation", data=data))
        await self.emit(chunks.Error(error_text=text))


def worded(text: str) -> str:
    """An application's words for an error, as many as an event holds, and such as can be written."""
    return text[:ERROR_CHARS_MAX].encode(errors="replace").decode()


async def own_cancellation[T](work: Coroutine[Any, Any, T]) -> T:
    """The work. Raises `ForeignCancellation` if it was cancelled by anybody but us: then it is over, and we
    are not.
    """
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ForeignCancellation from None
