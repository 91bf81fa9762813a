"""What a worker is made of: the agents that it serves, its limits, its ports, and hooks for tests."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from rejoin_adapters.jetstream.setup import ACK_WAIT_S
from rejoin_adapters.ports.agent_registry import AgentRegistry, ProcessReports
from rejoin_adapters.ports.audit import AuditLog
from rejoin_adapters.ports.files import FileStore
from rejoin_adapters.ports.run_control import RunControl
from rejoin_adapters.ports.run_counts import RunCounts
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_queue import Delivery, RunQueue
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.ports.session_store import SessionStore
from rejoin_adapters.store_types import Claim, Loss
from rejoin_protocol.ids import RunId
from rejoin_protocol.limits import MIB
from rejoin_protocol.security.sealing import Sealer
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import AgentTeam, build_team
from rejoin_runner.mcp.toolbox import ServerTools
from rejoin_runner.models.model import Model
from rejoin_runner.models.prices import Prices
from rejoin_runner.run.model_calls import CallRecorder
from rejoin_runner.tools.output_port import ArtifactStore


class WorkerLimits(msgspec.Struct, frozen=True):
    """Concurrency, intervals and retries of a worker. Times are in seconds."""

    max_concurrent_runs: int = 64
    """Runs at the same time in this process. Each agent after the first adds one, so that none starves."""
    ack_wait_s: float = ACK_WAIT_S
    """The broker redelivers a request after this time without a heartbeat. The worker sends three heartbeats
    in this time.
    """
    loop_blocked_s_max: float = 10.0
    """A run whose code blocks the event loop for longer is given up to another runner."""
    drain_grace_s: float = 10.0
    """After `drain`, running runs may continue for this long; then they are handed over."""
    attempts_max: int = 10
    """Attempts that end by an error, without progress in between, before the run fails."""
    announce_period_s: float = 30.0
    """Interval between announcements of the agents in the registry."""
    sweep_interval_s: float = 5.0
    """Interval between sweeps, see `Maintenance.sweep`."""
    sweep_age_s: float = 5.0
    """A ready run that no runner has claimed for this long is published again."""
    retry_delay_s: float = 1.0
    """Delay before a failed delivery is delivered again. It doubles with each delivery, up to a minute."""
    history_bytes_max: int = 2 * MIB
    """The size of a session's earlier messages, as JSON, that an agent sees."""
    session_retention_s: float | None = None
    audit_retention_s: float = 365 * 24 * 3600
    usage_retention_s: float = 800 * 24 * 3600
    """Sessions without a change for this long are deleted. None: sessions are never deleted."""
    retention_period_s: float = 60.0
    """Interval between deletions of expired sessions."""


class ServedAgent(msgspec.Struct, frozen=True):
    """An agent and what it needs to run: opened models and MCP tools, also of the agents that it reaches."""

    agent: Agent
    model: Model
    other_models: Mapping[str, Model] = {}
    """The models of the agents that `agent` hands over or delegates to, by name."""
    status_model: Model | None = None
    """Writes the status updates. None: the agent's own model writes them."""
    mcp_tools: Mapping[str, Sequence[ServerTools]] = {}
    """The tools of MCP servers, by the name of the agent that uses them."""

    @property
    def team(self) -> AgentTeam:
        """The agent with all agents that it reaches. Raises `Invalid` if the team cannot work."""
        return build_team(self.agent, {**self.other_models, self.agent.name: self.model}, self.mcp_tools)


type ReportLoss = Callable[[RunId, int | None, Loss], Coroutine[Any, Any, None]]


class WorkerPorts(msgspec.Struct, frozen=True, kw_only=True):
    """The services outside the process. A feature whose port is None is off."""

    store: RunStore
    run_log: RunLog
    queue: RunQueue
    control: RunControl
    registry: AgentRegistry
    files: FileStore | None = None
    artifacts: ArtifactStore | None = None
    sessions: SessionStore | None = None
    """Deletes expired sessions."""
    open_loss_reporter: Callable[[], AbstractAsyncContextManager[ReportLoss]] | None = None
    """`RunStore.report_loss` on a connection of its own, for the event loop of another thread."""
    audit: AuditLog | None = None
    """Deletes old entries."""
    run_counts: RunCounts | None = None
    """Deletes old usage."""
    sealer: Sealer | None = None
    """Decrypts the context of a request."""
    recorder: CallRecorder | None = None
    """Records calls of models. None: they are not recorded."""
    prices: Prices | None = None
    """None: the runner knows the prices of the package alone."""
    reports: ProcessReports | None = None
    """Tells gateways how this process is."""
    send_webhooks: Callable[[], Coroutine[Any, Any, None]] | None = None
    """Sends webhooks until it is cancelled."""


def never_silent(delivery: Delivery) -> bool:
    """Send every heartbeat."""
    del delivery
    return False


async def start_at_once(claim: Claim) -> None:
    """Do not pause between a claim and the takeover of the log."""
    del claim


class WorkerSignals(msgspec.Struct, frozen=True):
    """Hooks for tests, at the two points where a runner can be paused or silent and yet alive."""

    is_silent: Callable[[Delivery], bool] = never_silent
    """Asked before each heartbeat, three times in each ack wait, perhaps in another thread: whether the
    heartbeat is left out.
    """
    before_takeover: Callable[[Claim], Awaitable[None]] = start_at_once
    """Called between the claim in the database and the first append to the log."""
