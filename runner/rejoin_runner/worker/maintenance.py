"""Periodic work of a runner: announce its agents, find lost work, delete what has expired.

Every runner does all of it, without coordination: each task is idempotent.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime, timedelta

import msgspec
import structlog

from rejoin_adapters.ports.audit import AUDIT_BATCH_MAX
from rejoin_adapters.ports.run_control import Interrupt
from rejoin_adapters.ports.run_counts import USAGE_BATCH_MAX
from rejoin_adapters.ports.session_store import DeletedBatch
from rejoin_protocol.errors import Unavailable
from rejoin_runner.agent.agent import Agent
from rejoin_runner.worker.configuration import WorkerLimits, WorkerPorts
from rejoin_runner.worker.lease import RunLeases

log = structlog.get_logger("rejoin.worker")


class Maintenance:
    """The periodic tasks of one worker."""

    def __init__(
        self,
        agents: Iterable[Agent],
        ports: WorkerPorts,
        limits: WorkerLimits,
        leases: RunLeases,
        *,
        deployed_at_ms: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._agents = list(agents)
        self._ports = ports
        self._limits = limits
        self._leases = leases
        self._deployed_at_ms = deployed_at_ms
        self._now_ms = now_ms

    async def run(self) -> None:
        """Run every task at its interval until cancelled. A task that raises `Unavailable` runs again at its
        next interval; any other error ends all of them.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(_repeat(self._limits.announce_period_s, self.announce))
            group.create_task(_repeat(self._limits.sweep_interval_s, self.sweep))
            group.create_task(_repeat(self._limits.retention_period_s, self.expire_sessions))
            if self._ports.send_webhooks is not None:
                group.create_task(self._ports.send_webhooks())

    async def announce(self) -> None:
        """Write the agents to the registry, where gateways look for them."""
        times = {"deployed_at_ms": self._deployed_at_ms, "announced_at_ms": self._now_ms()}
        for agent in self._agents:
            await self._ports.registry.announce(msgspec.structs.replace(agent.registry_entry, **times))

    async def sweep(self) -> None:
        """Repair what a crash or a lost message left behind: interrupts that did not arrive, requests that
        were not published, approvals that have expired, logs of deleted runs, unused files.
        """
        store, queue = self._ports.store, self._ports.queue
        for run in await store.find_interrupted(self._leases.runs):
            self._leases.receive(run, Interrupt())
        for request in await store.recover_stranded(self._limits.sweep_age_s):
            log.info("stranded_run_republished", run=request.run, turn=request.turn)
            await queue.publish(request)
        for request in await store.expire_approvals():
            log.info("approval_expired", run=request.run, turn=request.turn)
            await queue.publish(request)
        await self._purge_logs()
        if self._ports.files is not None:
            await self._ports.files.sweep()

    async def expire_sessions(self) -> None:
        """Delete the sessions that have not changed for `session_retention_s`, and old entries of the audit
        log and of the usage.
        """
        await self._forget_audit()
        await self._forget_usage()
        sessions, retention_s = self._ports.sessions, self._limits.session_retention_s
        if sessions is None or retention_s is None:
            return
        batch = DeletedBatch(0, more=True)
        while batch.more:
            batch = await sessions.delete_untouched(retention_s)
            if batch.sessions:
                log.info("sessions_expired", sessions=batch.sessions)

    async def _forget_audit(self) -> None:
        deleted = AUDIT_BATCH_MAX if self._ports.audit is not None else 0
        while deleted == AUDIT_BATCH_MAX and self._ports.audit is not None:
            deleted = await self._ports.audit.forget(self._limits.audit_retention_s)

    async def _forget_usage(self) -> None:
        before = datetime.fromtimestamp(self._now_ms() / 1000, UTC) - timedelta(
            seconds=self._limits.usage_retention_s
        )
        deleted = USAGE_BATCH_MAX if self._ports.run_counts is not None else 0
        while deleted == USAGE_BATCH_MAX and self._ports.run_counts is not None:
            deleted = await self._ports.run_counts.delete_usage(before.date())

    async def _purge_logs(self) -> None:
        """Delete the logs of deleted runs. Two runners may do it at the same time."""
        runs = await self._ports.store.logs_to_purge()
        for run in runs:
            await self._ports.run_log.purge(run)
        if runs:
            # Only now: a crash before this line makes the next sweep delete the logs again.
            await self._ports.store.mark_purged(runs)
            log.info("run_logs_purged", runs=len(runs))


async def _repeat(interval_s: float, task: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(interval_s)
        try:
            await task()
        except Unavailable as fault:
            log.warning("periodic_task_failed", action=task.__name__, error=str(fault))
