"""A runner's worker: pulls run requests, starts an execution for each, and drains.

Owns the slots (how many runs at the same time) and the order of start and stop. `execution` executes one
request; `maintenance` does the periodic work.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog

from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.process.background import DetachedTasks, run_alongside
from rejoin_adapters.process.process_reporter import describe_process, report_periodically, with_metrics
from rejoin_adapters.store_types import Loss
from rejoin_protocol.ids import AgentName
from rejoin_protocol.process_report import ProcessReport
from rejoin_runner.application_code import RunningCode
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.worker.configuration import ServedAgent, WorkerLimits, WorkerPorts, WorkerSignals
from rejoin_runner.worker.delivery import DeliveryExecutor
from rejoin_runner.worker.heartbeat import Heartbeat
from rejoin_runner.worker.lease import RunLease, RunLeases
from rejoin_runner.worker.maintenance import Maintenance
from rejoin_runner.worker.quarantine import Quarantine

OVERLOAD_POLL_S = 0.5
PULL_BATCH_MAX = 16
"""Requests that one pull takes at most. Other runners take the rest."""

log = structlog.get_logger("rejoin.worker")


class Worker:
    """One runner process's worker: call `serve` once, and `drain` to end it.

    `serve` guarantees:

    - It calls `on_ready` once, after every agent is in the registry and control messages are received. It
      claims no run earlier, so no interrupt is missed: a claim shows the interrupts that came before it.
    - It returns only after `drain`. Then no task of the worker is left, and every request that it pulled was
      acknowledged, requeued, or will be redelivered after its ack wait.
    - It raises an exception group for an error that a retry cannot repair (a bug in a periodic task, a
      refused subscription). An error in one run never ends it, and neither do services that are away.
    - Cancelling it hands all runs over at once, like a drain without grace.

    `drain` guarantees:

    - It may be called at any time, also before `serve`, and more than once. It does not block.
    - After it no request is pulled. A run between two model calls is handed over at once. Other runs go on
      until their next model call or their end, at most `drain_grace_s`; then they are cancelled and handed
      over. A tool that does not end when it is cancelled delays `serve`'s return.
    """

    def __init__(
        self,
        name: str,
        served: Sequence[ServedAgent],
        ports: WorkerPorts,
        limits: WorkerLimits,
        *,
        deployed_at_ms: int = 0,
        metrics: RunnerMetrics | None = None,
        signals: WorkerSignals = WorkerSignals(),  # noqa: B008 - it is frozen
        quarantine: Quarantine | None = None,
        is_alone: bool = False,
        probes: socket.socket | None = None,
        now_ms: Callable[[], int],
    ) -> None:
        self.ports = ports
        self.metrics = metrics or RunnerMetrics()
        self._limits = limits
        self._agents = [AgentName(agent.agent.name) for agent in served]
        self._identity = describe_process("runner", name, now_ms(), self._agents)
        self._leases = RunLeases()
        self.maintenance = Maintenance(
            [agent.agent for agent in served],
            ports,
            limits,
            self._leases,
            deployed_at_ms=deployed_at_ms,
            now_ms=now_ms,
        )
        self._heartbeat = Heartbeat(
            ports.queue,
            ack_wait_s=limits.ack_wait_s,
            blocked_s_max=limits.loop_blocked_s_max,
            is_silent=signals.is_silent,
            report=self._report_block,
            is_alone=is_alone,
            probes=probes,
        )
        self._draining = asyncio.Event()
        self._agent_work = DetachedTasks()
        """Models, loops and tools. What ignores an interrupt is abandoned here, and `serve` waits for it."""
        self._executor = DeliveryExecutor(
            name,
            {AgentName(agent.agent.name): agent for agent in served},
            ports,
            limits,
            self._leases,
            self._heartbeat,
            self.metrics,
            draining=self._draining,
            signals=signals,
            tasks=self._agent_work,
            quarantine=quarantine,
            is_alone=is_alone,
            now_ms=now_ms,
        )
        pulls = len(served) * ports.queue.shards  # each waits with a slot of its own
        self._free_slots = asyncio.Semaphore(limits.max_concurrent_runs + pulls - 1)
        self._executions: set[asyncio.Task[None]] = set()

    @property
    def active_runs(self) -> int:
        """How many executions have not ended."""
        return len(self._executions)

    def drain(self) -> None:
        """Pull no more requests; `serve` returns when the running runs have ended or are handed over."""
        self._heartbeat.health.phase = "draining"
        self.metrics.draining()
        self._draining.set()

    async def serve(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Work until drained. The class documents what this guarantees."""
        async with (
            self.ports.control.listen(self._leases.receive),
            self._heartbeat.beating(),
            self._agent_work,
        ):
            await self.maintenance.announce()
            if not self._draining.is_set():
                self._heartbeat.health.phase = "serving"
            on_ready()
            log.info(
                "serving", agents=sorted(self._agents), max_concurrent_runs=self._limits.max_concurrent_runs
            )
            async with run_alongside(*self._reporting()):
                await self._work()
        log.info("drained")

    @asynccontextmanager
    async def standing_by(self) -> AsyncIterator[None]:
        """A context for `execute_alone`."""
        async with self.ports.control.listen(self._leases.receive), self._heartbeat.beating():
            yield

    async def execute_alone(self, delivery: Delivery) -> None:
        """Execute one delivery, in a process that has nothing else to do. Nothing of it goes on later."""
        async with self._agent_work:
            await self._executor.execute(delivery)

    async def _report_block(self, lease: RunLease, code: RunningCode, seconds: float) -> None:
        """Store why a run is given up, from the heartbeat's thread. Raises `Unavailable`."""
        if self.ports.open_loss_reporter is None or lease.run is None:
            return
        async with self.ports.open_loss_reporter() as report_loss:
            loss = Loss(cause="blocked", code=code.name, call=code.call, seconds=seconds)
            await report_loss(lease.run.id, lease.run.attempt, loss)

    async def _work(self) -> None:
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(self.metrics.watch_loop()),
                group.create_task(self.maintenance.run()),
                *(
                    group.create_task(self._pull(agent, shard, group))
                    for agent in self._agents
                    for shard in range(self.ports.queue.shards)
                ),
            ]
            await self._draining.wait()
            log.info("draining", runs=len(self._executions))
            for task in background:
                task.cancel()
            if self._executions:
                await asyncio.wait(self._executions, timeout=self._limits.drain_grace_s)
            for task in self._executions:
                task.cancel()  # its execution hands the run over

    def _reporting(self) -> list[Coroutine[Any, Any, None]]:
        reports = self.ports.reports
        return [] if reports is None else [report_periodically(reports, self._describe)]

    def _describe(self) -> ProcessReport:
        load, load_max = self.active_runs, self._limits.max_concurrent_runs
        report = msgspec.structs.replace(self._identity, load=load, load_max=load_max)
        return with_metrics(report, self.metrics)

    async def _pull(self, agent: AgentName, shard: int, group: asyncio.TaskGroup) -> None:
        """Pull an agent's requests of a shard until cancelled. Takes slots first, so that no request waits
        here.
        """
        async with self.ports.queue.pull(agent, shard) as next_requests:
            waiting = 0
            while True:
                await self._wait_until_fit()
                slots = await self._take_slots(waiting)
                deliveries: Sequence[Delivery] = ()
                try:
                    deliveries = await next_requests(slots)
                finally:
                    for _ in range(slots - len(deliveries)):
                        self._free_slots.release()
                for delivery in deliveries:
                    slot = _Slot(self._free_slots)
                    task = group.create_task(self._executor.execute(delivery, slot.free))
                    self._executions.add(task)
                    task.add_done_callback(self._executions.discard)
                    task.add_done_callback(slot.free)
                waiting = _expected_count(deliveries)

    async def _wait_until_fit(self) -> None:
        """Wait while this process is overloaded. One without runs pulls all the same: it will not get lighter
        by waiting, and there may be no other runner.
        """
        while self.metrics.overload.reason is not None and self._executions:  # noqa: ASYNC110 - two conditions
            await asyncio.sleep(OVERLOAD_POLL_S)

    async def _take_slots(self, waiting: int) -> int:
        """Wait for one slot, then take more for the `waiting` requests as long as slots are free."""
        await self._free_slots.acquire()
        slots = 1
        while slots < min(waiting + 1, PULL_BATCH_MAX) and not self._free_slots.locked():
            await self._free_slots.acquire()
            slots += 1
        return slots


def _expected_count(pulled: Sequence[Delivery]) -> int:
    """How many requests to expect behind those that were pulled. The broker does not count the ones that it
    delivers again, and those of a runner that died come together.
    """
    if not pulled:
        return 0
    return PULL_BATCH_MAX if pulled[-1].delivery_count > 1 else pulled[-1].pending_count


class _Slot:
    """One of the worker's slots, in use."""

    def __init__(self, slots: asyncio.Semaphore) -> None:
        self._slots = slots
        self._in_use = True

    def free(self, _: object = None) -> None:
        """Give it to another run. A second call has no effect."""
        if self._in_use:
            self._in_use = False
            self._slots.release()
