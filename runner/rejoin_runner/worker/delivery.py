"""Executes the run that a delivery asks for: claim it, take its log over, carry it out, acknowledge.

Owns the order of effects between broker and database. A request is acknowledged only after the database has
the result, so a crash at any point leads to another delivery, and the next claim finds in the log how far the
run has come. Four causes end an execution early, and each has its own answer:

- another runner has the run (`Fenced`): stop, and write nothing more;
- this worker drains (`HandedOver`, or cancellation after the grace): requeue the run at once;
- a service is away (`RejoinError`): requeue the run after a delay;
- a bug (any other exception): log it, then requeue the run after a delay.

A run that may have ended the process of an earlier attempt is executed by the quarantine, see `suspicion`.
After too many attempts without progress the run fails, so that it does not crash its runners for ever.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import structlog

from rejoin_adapters.history_bounds import HistoryBounds
from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.process import tracing
from rejoin_adapters.process.background import DetachedTasks, run_alongside
from rejoin_adapters.process.exception_report import log_exception
from rejoin_adapters.process.fair_share import FairShare
from rejoin_adapters.store_types import Claim, Loss, Run
from rejoin_protocol.errors import Fenced, RejoinError, Unavailable
from rejoin_protocol.ids import AgentName
from rejoin_protocol.lifecycle import State
from rejoin_protocol.limits import HISTORIES_BYTES_MAX, LARGE_HISTORY_BYTES
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.next_action.run_state import RunState
from rejoin_runner.next_action.suspicion import Suspicion, failed_attempts, judge
from rejoin_runner.output.journal import Journal
from rejoin_runner.run import executor, instrumentation
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.run.executor import HandedOver, RunExecutor
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.run.model_files import FileInliningModel
from rejoin_runner.run.run_inputs import ContextUnavailable, open_context
from rejoin_runner.worker.configuration import ServedAgent, WorkerLimits, WorkerPorts, WorkerSignals
from rejoin_runner.worker.heartbeat import Heartbeat
from rejoin_runner.worker.lease import RunLease, RunLeases
from rejoin_runner.worker.quarantine import AloneAnswer, Quarantine
from rejoin_runner.worker.takeover import LogTakeover

REQUEUE_DELAY_MAX_S = 60.0
ABANDON_FACTOR = 3
"""A run whose log takes no append, not even of its failure, is abandoned after this times `attempts_max`."""

log = structlog.get_logger("rejoin.worker")


class DeliveryExecutor:
    """Executes deliveries, any number at the same time. One for each worker."""

    def __init__(
        self,
        runner: str,
        served: Mapping[AgentName, ServedAgent],
        ports: WorkerPorts,
        limits: WorkerLimits,
        leases: RunLeases,
        heartbeat: Heartbeat,
        metrics: RunnerMetrics,
        *,
        draining: asyncio.Event,
        signals: WorkerSignals,
        tasks: DetachedTasks,
        quarantine: Quarantine | None = None,
        is_alone: bool = False,
        now_ms: Callable[[], int],
    ) -> None:
        self._runner = runner
        self._served = served
        self._teams = {name: agent.team for name, agent in served.items()}
        self._ports = ports
        self._limits = limits
        self._leases = leases
        self._heartbeat = heartbeat
        self._metrics = metrics
        self._draining = draining
        self._signals = signals
        self._now_ms = now_ms
        self._tasks = tasks
        self._quarantine = quarantine
        self._is_alone = is_alone
        self._histories = FairShare(HISTORIES_BYTES_MAX)

    async def execute(self, delivery: Delivery, free_slot: Callable[[], None] = lambda: None) -> None:
        """Execute one delivery to its end. When this returns, the request is acknowledged, requeued, or left
        to its ack wait. On cancellation the run is requeued at once. Raises nothing else.
        """
        request = delivery.request
        structlog.contextvars.bind_contextvars(run=request.run, turn=request.turn)
        with (
            instrumentation.attempt(delivery),
            self._leases.open(delivery, free_slot) as lease,
        ):
            self._heartbeat.keep(lease)
            try:
                await self._execute(delivery, lease)
            except asyncio.CancelledError:
                log.info("run_handed_over")
                self._metrics.attempt_aborted(request.agent, "handed_over")
                await self._requeue(delivery, lease, 0)
                raise
            finally:
                self._heartbeat.release(lease)
                if lease.run is not None:
                    self._metrics.run_released(request.agent)

    async def _execute(self, delivery: Delivery, lease: RunLease) -> None:
        agent = delivery.request.agent
        try:
            await self._claim_and_run(delivery, lease)
        except* Fenced:
            log.info("run_fenced")
            self._metrics.attempt_aborted(agent, "fenced")
        except* HandedOver:
            log.info("run_handed_over")
            self._metrics.attempt_aborted(agent, "handed_over")
            await self._requeue(delivery, lease, 0)
        except* RejoinError as faults:
            self._metrics.attempt_aborted(agent, "requeued")
            log.warning("run_requeued", error="; ".join(str(fault) for fault in faults.exceptions))
            _, own = faults.split(Unavailable)
            if own is not None:
                await self._requeue_failed(delivery, lease)
            else:  # however long the service is away, the run goes on soon after it is back
                await self._requeue(delivery, lease, self._limits.retry_delay_s)
        except* Exception as faults:  # noqa: BLE001 - maybe of a model of the application's own
            log_exception(log, "run_crashed", faults)
            self._metrics.attempt_aborted(agent, "crashed")
            await self._requeue_failed(delivery, lease)

    async def _requeue_failed(self, delivery: Delivery, lease: RunLease) -> None:
        """Requeue a run after an error of its own, each time after twice the delay."""
        doubled_s = self._limits.retry_delay_s * 2 ** min(lease.failed_attempts, 10)
        await self._requeue(delivery, lease, min(doubled_s, REQUEUE_DELAY_MAX_S), failed=True)

    async def _requeue(
        self, delivery: Delivery, lease: RunLease, delay_s: float, *, failed: bool = False
    ) -> None:
        """Give the request back to the broker, unless a newer attempt has the run: that attempt then owns the
        request, and a second delivery would take the run from it. `failed`: by an error of the run's own.
        """
        claimed = lease.run
        try:
            store = self._ports.store
            if claimed is None or await store.release(claimed.id, claimed.attempt, failed=failed):
                await delivery.nak(delay_s)
        except Unavailable:
            log.warning("nak_failed")  # the broker redelivers the request after its ack wait

    async def _claim_and_run(self, delivery: Delivery, lease: RunLease) -> None:
        claim = await self._ports.store.claim(
            delivery.request,
            self._runner,
            HistoryBounds(None, self._limits.history_bytes_max, LARGE_HISTORY_BYTES),
        )
        if claim is None:
            log.info("stale_request")
            await delivery.ack()
            return
        run = lease.run = claim.run
        if run.interrupted:
            lease.interrupt()
        structlog.contextvars.bind_contextvars(session=run.session, agent=run.agent, attempt=run.attempt)
        log.info("run_claimed", history_bytes=claim.history_bytes, history_cut=claim.history_cut)
        self._metrics.run_claimed(run.agent, delivery.age_s)
        takeover = LogTakeover(self._ports, self._metrics)
        losses = await self._look_back(claim, takeover)
        state = takeover.state
        suspicion = judge(losses, state)
        failed, failed_unwritten_too = failed_attempts(losses, state)
        lease.failed_attempts = failed_unwritten_too
        if failed_unwritten_too > self._limits.attempts_max * ABANDON_FACTOR:
            await self._abandon(claim)
            await delivery.ack()
            return
        if suspicion is Suspicion.ALONE and self._quarantine is not None:
            await self._execute_alone(delivery, lease, run)
            return
        failure = executor.TOO_MANY_ATTEMPTS if failed >= self._limits.attempts_max else None
        if isinstance(suspicion, str):
            failure = executor.RunFailure("crashed", suspicion)
        async with run_alongside(lease.wait_until_lost()) as add, self._with_history(claim) as claim:
            await self._signals.before_takeover(claim)
            journal = await takeover.take_over(claim.run)
            add(journal.run())
            for request in await self._carry_out(claim, state, journal, lease.interrupted, failure):
                with tracing.detached():  # another user's request caused the next turn
                    await self._ports.queue.publish(request)
        # Last: a crash before this line makes the broker deliver the request again. The claim then finds that
        # the turn is over, and the sweep publishes what was not published.
        await delivery.ack()
        log.info("run_released", ended=state.ended, events=state.index)

    async def _look_back(self, claim: Claim, takeover: LogTakeover) -> Sequence[Loss]:
        """Read the log of the run, and its lost attempts."""
        if claim.run.attempt == 1:  # it finds no log; if there is one, the first append fails
            return []
        losses = await self._ports.store.find_losses(claim.run.id)
        await takeover.read_log(claim.run.id)
        return losses

    async def _execute_alone(self, delivery: Delivery, lease: RunLease, run: Run) -> None:
        """Let a process of its own execute the run, and do with the request what it answers."""
        store = self._ports.store
        if self._quarantine is None or not await store.release(run.id, run.attempt):
            return
        try:
            answer = await self._quarantine.execute(delivery, run.owner.tenant, lease.free_slot)
        except asyncio.CancelledError:
            current = await store.find_run(run.owner, run.id)
            if current is not None:
                await store.release(run.id, current.attempt)
            raise
        match answer:
            case None:
                current = await store.find_run(run.owner, run.id)
                begun = current is not None and current.attempt > run.attempt
                if begun:  # else the process could not start, and the run is not the reason
                    await store.report_loss(run.id, None, Loss(cause="died"))
                await delivery.nak(0 if begun else self._limits.retry_delay_s)
            case AloneAnswer("ack"):
                await delivery.ack()
            case AloneAnswer("nak", delay_s):
                await delivery.nak(delay_s)

    @asynccontextmanager
    async def _with_history(self, claim: Claim) -> AsyncIterator[Claim]:
        """The claim with its history. A large one waits for a share of this process's memory first, and holds
        it until the end of the context: a tenant with many large sessions waits for itself.
        """
        if claim.history_from is None:
            yield claim
            return
        size = min(claim.history_bytes, HISTORIES_BYTES_MAX)
        share = await self._histories.take(claim.run.tenant, size)
        try:
            yield await self._ports.store.load_history(claim)
        finally:
            share.release()

    async def _abandon(self, claim: Claim) -> None:
        """End a run in the database alone, because its log takes no append any more."""
        log.error("run_abandoned")
        run, failure = claim.run, executor.TOO_MANY_ATTEMPTS
        next_request = await self._ports.store.end(
            run.id, run.attempt, State.FAILED, claim.answer, failure.text, failure.code
        )
        self._metrics.run_entered_state(run.agent, State.FAILED.value)
        if next_request is not None:
            await self._ports.queue.publish(next_request)

    async def _carry_out(
        self,
        claim: Claim,
        state: RunState,
        journal: Journal,
        interrupted: asyncio.Future[None],
        failure: executor.RunFailure | None,
    ) -> Sequence[RunRequest]:
        served = self._served[claim.run.agent]
        team, files, tenant = self._teams[claim.run.agent], self._ports.files, claim.run.owner.tenant
        if files is not None:
            team = team.with_wrapped_models(lambda model: FileInliningModel(model, files, tenant))
        context = None
        if failure is None and state.start_expired and claim.answer is None:
            failure = executor.LOG_EXPIRED
        try:
            context = open_context(claim, served.agent, self._ports.sealer)
        except ContextUnavailable as fault:
            log.warning("context_decryption_failed", error=str(fault))
            failure = failure or executor.RunFailure("context_unavailable", str(fault))
        attempt = Attempt(
            claim,
            team,
            self._ports.store,
            journal,
            state,
            tasks=self._tasks,
            context=context,
            artifacts=self._ports.artifacts,
            files=files,
            metrics=self._metrics,
            prices=self._ports.prices,
            store_call=None if (recorder := self._ports.recorder) is None else recorder.store_of(claim.run),
            now_ms=self._now_ms,
        )
        run = RunExecutor(
            attempt,
            interrupted=interrupted,
            draining=self._draining,
            leaves_after_progress=self._is_alone,
            status_model=served.status_model,
        )
        if failure is not None:
            await run.fail(failure)
        with instrumentation.invocation(attempt, ordinary=(HandedOver, Fenced)):
            return await run.execute()
