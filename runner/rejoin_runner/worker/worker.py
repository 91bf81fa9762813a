"""Pulls run requests, claims the runs, keeps them alive while they are executed, and drains.

Owns the order between broker and database: nothing is acknowledged before the database has it, so whatever
dies in between is delivered again, and the next claim finds in the log how far it had come. Three things end
an execution early and are told apart: another runner has fenced us (stop silently), this runner drains (hand
over), or something is broken (hand over later, and give up visibly after too many attempts).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import structlog
from rejoin_adapters.ports.agent_registry import AgentRegistry
from rejoin_adapters.ports.files import FileStore
from rejoin_adapters.ports.run_control import ControlMessage, Interrupt, RunControl, Supersede
from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.ports.run_queue import Delivery, RunQueue
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.ports.session_store import DELETE_BATCH_MAX, SessionStore
from rejoin_adapters.records import Claim, Run
from rejoin_adapters.service import tracing
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.errors import Fenced, RejoinError, Unavailable
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest
from rejoin_protocol.security.sealing import Sealer

from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.team import AgentTeam, build_team
from rejoin_runner.decision.run_state import RunState
from rejoin_runner.mcp.toolbox import ServerTools
from rejoin_runner.models.model import Model
from rejoin_runner.output.journal import Journal
from rejoin_runner.run import executor, instrumentation
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.run.executor import HandedOver, RunExecutor
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.run.model_files import FileInliningModel
from rejoin_runner.run.run_context import ContextUnavailable, open_context
from rejoin_runner.tools.output_port import ArtifactStore

log = structlog.get_logger("rejoin.worker")


PULLED_MAX = 16
"""A runner takes so many of the requests that wait at once; others come for theirs."""
TAKE_OVER_PAUSE_S = 0.02
PUT_OFF_MAX_S = 60.0
GIVE_UP_FACTOR = 3
"""A run that cannot even be failed in its log is given up after so many times `attempts_max` deliveries."""


class WorkerLimits(msgspec.Struct, frozen=True):
    """How much, how long, how often."""

    max_concurrent_runs: int = 64
    """Runs at once in this process; each agent beyond the first may have one more, so that none starves."""
    ack_wait_s: float = 2.5
    """The broker's patience with a silent runner; a run is kept alive three times as often."""
    drain_grace_s: float = 10.0
    """How long running runs may go on after a SIGTERM."""
    attempts_max: int = 10
    """In one turn of a run. A run that is often decided about is claimed often too, and has done no wrong."""
    announce_period_s: float = 30.0
    sweep_interval_s: float = 5.0
    sweep_age_s: float = 5.0
    """A ready run that nobody has claimed for this long is asked for again."""
    retry_delay_s: float = 1.0
    session_retention_s: float | None = None
    """Sessions that nothing has touched for longer are deleted; None: they are kept."""
    retention_period_s: float = 60.0


class ServedAgent(msgspec.Struct, frozen=True):
    """An agent and its opened model; `others` are the models of the agents that it reaches, by name."""

    agent: Agent
    model: Model
    other_models: Mapping[str, Model] = {}
    status_model: Model | None = None
    """What writes its status updates; None is its own model."""
    mcp_tools: Mapping[str, Sequence[ServerTools]] = {}
    """The MCP servers of the agents that have some, by the agents' names."""

    @property
    def team(self) -> AgentTeam:
        """The agent with those that it reaches. Raises `Invalid` in one sentence for what cannot work."""
        return build_team(self.agent, {**self.other_models, self.agent.name: self.model}, self.mcp_tools)


class RunLease:
    """This runner's hold on a run, and what it is told about it."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.interrupted = asyncio.Event()
        self._newest = 0
        self._news = asyncio.Event()

    def hear(self, word: ControlMessage) -> None:
        """Something that was said to whoever holds the run."""
        match word:
            case Interrupt():
                self.interrupted.set()
            case Supersede(attempt):
                self._newest = max(self._newest, attempt)
                self._news.set()

    async def until_lost(self) -> None:
        """Raises `Fenced` once another attempt holds the run."""
        while self.run is None or self._newest <= self.run.attempt:  # also what was said before our claim
            self._news.clear()
            await self._news.wait()
        raise Fenced("another runner has the run")


class Worker:
    """A runner process's work. `serve` does it; `drain` ends it in order."""

    def __init__(
        self,
        name: str,
        served: Sequence[ServedAgent],
        *,
        store: RunStore,
        run_log: RunLog,
        queue: RunQueue,
        control: RunControl,
        registry: AgentRegistry,
        files: FileStore | None = None,
        artifacts: ArtifactStore | None = None,
        sessions: SessionStore | None = None,
        sealer: Sealer | None = None,
        deployed_at_ms: int = 0,
        limits: WorkerLimits,
        metrics: RunnerMetrics | None = None,
        now_ms: Callable[[], int],
    ) -> None:
        self._name = name
        self._served: Mapping[AgentName, ServedAgent] = {AgentName(one.agent.name): one for one in served}
        self._teams = {name: one.team for name, one in self._served.items()}
        self._store = store
        self._run_log = run_log
        self._queue = queue
        self._control = control
        self._registry = registry
        self._files = files
        self._artifacts = artifacts
        self._sessions = sessions
        self._sealer = sealer
        self._deployed_at_ms = deployed_at_ms
        self._limits = limits
        self.metrics = metrics or RunnerMetrics()
        self._now_ms = now_ms
        self._slots = asyncio.Semaphore(limits.max_concurrent_runs + len(served) - 1)
        self._draining = asyncio.Event()
        self._executions: set[asyncio.Task[None]] = set()
        self._leases: dict[RunId, list[RunLease]] = {}
        """By run: two, if its request was delivered again."""

    def drain(self) -> None:
        """Take no more runs; `serve` returns when the running ones are over or handed over."""
        self.metrics.draining()
        self._draining.set()

    async def serve(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Until drained. Raises what only a restart can mend."""
        # Listening comes before any claim, which brings the wishes that were there before it.
        async with self._control.listen(self._hear):
            await self._announce()
            on_ready()
            log.info(
                "serving", agents=sorted(self._served), max_concurrent_runs=self._limits.max_concurrent_runs
            )
            await self._work()
        log.info("drained")

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self.metrics.watch_loop()),
                group.create_task(self._every(self._limits.announce_period_s, self._announce)),
                group.create_task(self._every(self._limits.sweep_interval_s, self._sweep)),
                group.create_task(self._every(self._limits.retention_period_s, self._forget)),
                *(group.create_task(self._pull(agent, group)) for agent in self._served),
            ]
            await self._draining.wait()
            log.info("draining", runs=len(self._executions))
            for task in background:
                task.cancel()
            if self._executions:
                await asyncio.wait(self._executions, timeout=self._limits.drain_grace_s)
            for task in self._executions:
                task.cancel()  # hands its run over

    def _hear(self, run: RunId, word: ControlMessage) -> None:
        for lease in self._leases.get(run, ()):
            lease.hear(word)

    @contextmanager
    def _listening(self, run: RunId) -> Iterator[RunLease]:
        """A hold that hears what is said about a run."""
        lease = RunLease()
        leases = self._leases.setdefault(run, [])
        leases.append(lease)
        try:
            yield lease
        finally:
            leases.remove(lease)
            if not leases:
                del self._leases[run]

    async def _every(self, period_s: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(period_s)
            try:
                await action()
            except Unavailable as fault:
                log.warning("periodic_task_failed", action=action.__name__, error=str(fault))

    async def _announce(self) -> None:
        times = {"deployed_at_ms": self._deployed_at_ms, "announced_at_ms": self._now_ms()}
        for one in self._served.values():
            await self._registry.announce(msgspec.structs.replace(one.agent.registry_entry, **times))

    async def _sweep(self) -> None:
        """Look for what got lost, expired or was deleted: requests, interrupts, questions, logs."""
        for run in await self._store.find_interrupted(list(self._leases)):
            self._hear(run, Interrupt())
        for request in await self._store.find_stranded(self._limits.sweep_age_s):
            log.info("stranded_run_republished", run=request.run, turn=request.turn)
            await self._queue.publish(request)
        for request in await self._store.expire_approvals():
            log.info("approval_expired", run=request.run, turn=request.turn)
            await self._queue.publish(request)
        await self._purge()
        if self._files is not None:
            await self._files.sweep()

    async def _purge(self) -> None:
        """Delete the logs of deleted runs. Doing it twice is doing it once, so any number of runners may."""
        due = await self._store.logs_to_purge()
        for run in due:
            await self._run_log.purge(run)
        if due:
            await self._store.mark_purged(due)
            log.info("run_logs_purged", runs=len(due))

    async def _forget(self) -> None:
        """Delete the sessions that nobody has come back to for as long as they are kept."""
        age_max_s = self._limits.session_retention_s
        if self._sessions is None or age_max_s is None:
            return
        deleted = DELETE_BATCH_MAX
        while deleted == DELETE_BATCH_MAX:
            deleted = await self._sessions.delete_untouched(age_max_s)
            if deleted:
                log.info("sessions_expired", sessions=deleted)

    async def _pull(self, agent: AgentName, group: asyncio.TaskGroup) -> None:
        async with self._queue.pull(agent) as next_requests:
            behind = 0
            while True:
                room = await self._room(behind)
                deliveries: Sequence[Delivery] = ()
                try:
                    deliveries = await next_requests(room)
                finally:
                    for _ in range(room - len(deliveries)):
                        self._slots.release()
                for delivery in deliveries:
                    task = group.create_task(self._execute(delivery))
                    self._executions.add(task)
                    task.add_done_callback(self._over)
                behind = deliveries[-1].pending_count if deliveries else 0

    async def _room(self, behind: int) -> int:
        """A slot, once there is one, and those that are free for the requests `behind`."""
        await self._slots.acquire()
        room = 1
        while room < min(behind + 1, PULLED_MAX) and not self._slots.locked():
            await self._slots.acquire()
            room += 1
        return room

    def _over(self, task: asyncio.Task[None]) -> None:
        self._executions.discard(task)
        self._slots.release()

    # ------------------------------------------------------------------------------ one execution

    async def _execute(self, delivery: Delivery) -> None:
        request = delivery.request
        with (
            structlog.contextvars.bound_contextvars(run=request.run, turn=request.turn),
            instrumentation.attempt(delivery),
            self._listening(request.run) as lease,
        ):
            try:
                await self._try(delivery, lease)
            except asyncio.CancelledError:
                log.info("run_handed_over")
                self.metrics.gave_back(request.agent, "handed_over")
                await self._give_back(delivery, lease, 0)
                raise
            finally:
                if lease.run is not None:
                    self.metrics.let_go(request.agent)

    async def _try(self, delivery: Delivery, lease: RunLease) -> None:
        agent = delivery.request.agent
        put_off_s = min(self._limits.retry_delay_s * 2 ** min(delivery.delivery_count - 1, 10), PUT_OFF_MAX_S)
        try:
            await self._carry(delivery, lease)
        except* Fenced:
            log.info("run_fenced")
            self.metrics.gave_back(agent, "fenced")
        except* HandedOver:
            log.info("run_handed_over")
            self.metrics.gave_back(agent, "handed_over")
            await self._give_back(delivery, lease, 0)
        except* RejoinError as faults:
            self.metrics.gave_back(agent, "requeued")
            log.warning("run_requeued", error="; ".join(str(fault) for fault in faults.exceptions))
            await self._give_back(delivery, lease, put_off_s)
        except* Exception:
            log.exception("run_crashed")
            self.metrics.gave_back(agent, "crashed")
            await self._give_back(delivery, lease, put_off_s)

    async def _give_back(self, delivery: Delivery, lease: RunLease, delay_s: float) -> None:
        """Unless somebody else has the run by now: then it is not ours to give."""
        held = lease.run
        try:
            if held is not None:
                now = await self._store.find_run(held.owner, held.id)
                if now is None or now.attempt != held.attempt:
                    return
            await delivery.nak(delay_s)
        except Unavailable:
            log.warning("nak_failed")  # its ack wait gives it back

    async def _carry(self, delivery: Delivery, lease: RunLease) -> None:
        claim = await self._store.claim(delivery.request, self._name)
        if claim is None:
            log.info("stale_request")
            await delivery.ack()
            return
        run = lease.run = claim.run
        structlog.contextvars.bind_contextvars(session=run.session, agent=run.agent, attempt=run.attempt)
        log.info("run_claimed")
        self.metrics.claimed(run.agent, delivery.age_s)
        # Deliveries of this turn, and those alone in which the database was there to be asked.
        if min(delivery.delivery_count, run.attempt) > self._limits.attempts_max * GIVE_UP_FACTOR:
            await self._give_up(claim)
            await delivery.ack()
            return
        # Kept alive from here on: to read a long log takes its time.
        async with run_alongside(self._keep_alive(delivery), lease.until_lost()):
            state, journal = await self._take_over(claim)
            async with run_alongside(journal.write()):
                for following in await self._run(claim, state, journal, lease.interrupted):
                    with tracing.detached():  # what comes next was asked for by somebody else
                        await self._queue.publish(following)
        await delivery.ack()
        log.info("run_released", ended=state.ended, events=state.index)

    async def _give_up(self, claim: Claim) -> None:
        """End a run whose log takes no word any more, not even that it has failed."""
        log.error("run_abandoned")
        run = claim.run
        following = await self._store.end(run.id, run.attempt, State.FAILED, claim.answer, executor.TOO_OFTEN)
        self.metrics.became(run.agent, State.FAILED.value)
        if following is not None:
            await self._queue.publish(following)

    async def _run(
        self, claim: Claim, state: RunState, journal: Journal, interrupted: asyncio.Event
    ) -> Sequence[RunRequest]:
        team, files, tenant = self._teams[claim.run.agent], self._files, claim.run.owner.tenant
        served = self._served[claim.run.agent]
        fault = ""
        try:
            context = open_context(claim, served.agent, self._sealer)
        except ContextUnavailable as closed:
            log.warning("context_decryption_failed", error=str(closed))
            context, fault = None, str(closed)
        attempt = Attempt(
            claim,
            team
            if files is None
            else team.with_wrapped_models(lambda model: FileInliningModel(model, files, tenant)),
            self._store,
            journal,
            state,
            context=context,
            artifacts=self._artifacts,
            files=files,
            metrics=self.metrics,
            now_ms=self._now_ms,
        )
        execution = RunExecutor(
            attempt, interrupted=interrupted, draining=self._draining, status_model=served.status_model
        )
        if state.attempts >= self._limits.attempts_max:
            await execution.fail(executor.TOO_OFTEN)
        elif state.headless and claim.answer is None:
            await execution.fail(executor.EXPIRED)
        elif fault:
            await execution.fail(fault)
        return await execution.execute()

    async def _take_over(self, claim: Claim) -> tuple[RunState, Journal]:
        """Read the log, and make sure that nobody else writes it any more."""
        run = claim.run
        state = RunState()
        unread = run.attempt > 1  # the first has nothing to read, and the append would find it if it had
        while True:
            if unread:
                await self._read(run.id, state)
            unread = True
            if state.attempt > run.attempt:
                raise Fenced(f"run {run.id} is attempt {state.attempt}'s")
            journal = Journal(self._run_log, run.id, run.attempt, state, self.metrics.appended)
            try:
                await journal.take_over()
            except Fenced:
                # The earlier attempt wrote once more, or the read was behind. One that never pauses would
                # always be first, so it is told.
                log.info("takeover_retried")
                await self._control.supersede(run.id, run.attempt)
                await asyncio.sleep(TAKE_OVER_PAUSE_S)
            else:
                if state.attempts > 0:  # in this turn
                    self.metrics.took_over(run.agent)
                if run.attempt > 1:  # whoever was silent may come back, and must not disturb us
                    await self._control.supersede(run.id, run.attempt)
                return state, journal

    async def _read(self, run: RunId, state: RunState) -> None:
        """Only what is new: whoever is to be fenced may write all the while."""
        more = True
        while more:
            page = await self._run_log.read(run, after=state.prev)
            for record in page.records:
                state.record(record)
            more = page.more

    async def _keep_alive(self, delivery: Delivery) -> None:
        while True:
            await asyncio.sleep(self._limits.ack_wait_s / 3)
            try:
                await delivery.in_progress()
            except Unavailable as fault:
                log.warning("heartbeat_failed", error=str(fault))
