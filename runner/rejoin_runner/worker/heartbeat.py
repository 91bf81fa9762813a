"""Keeps a worker's deliveries by heartbeats: the broker redelivers a request without them.

The heartbeats come from a thread with an event loop and a connection of its own. Code of the application may
block the worker's event loop; heartbeats from that loop would then stop, and every run of the process would
be taken over because of one tool. The thread watches that loop (`LoopWatch`): a run whose code blocks it for
too long is given up, and another runner takes the run. If the loop does not return for much longer, all runs
are given up, because a loop that stands still executes nobody's run.

The two threads share a set and a few numbers. Each has one writer at a time, and a lost update only repeats a
log line.
"""

import asyncio
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import monotonic
from typing import Any

import structlog

from rejoin_adapters.ports.run_queue import Delivery, HeartbeatLink, RunQueue
from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.errors import Unavailable
from rejoin_runner.application_code import RunningCode
from rejoin_runner.worker.lease import RunLease
from rejoin_runner.worker.loop_watch import LoopWatch
from rejoin_runner.worker.probes import RunnerHealth, answering_probes

BEATS_PER_ACK_WAIT = 3
REPORT_TIMEOUT_S = 3.0
BLOCKED_EXIT = 75
"""The exit code of a process whose only run blocks its event loop."""
ALL_FACTOR = 6
"""All runs are given up after this times the limit for the run that blocks: the loop will not return."""

log = structlog.get_logger("rejoin.heartbeat")


type Report = Callable[[RunLease, RunningCode, float], Coroutine[Any, Any, None]]


async def ignore_block(lease: RunLease, code: RunningCode, seconds: float) -> None:
    """Tell nobody that code has blocked the event loop."""
    del lease, code, seconds


class Heartbeat:
    """The heartbeats of one worker, sent while `beating` is entered.

    `report` is called in the thread before a run is given up whose code blocks the event loop. `is_alone`:
    the process has one run and no heartbeats of its own, so that it ends instead of giving the run up.
    `probes`: a listening socket on which the thread answers probes.
    """

    def __init__(
        self,
        queue: RunQueue,
        *,
        ack_wait_s: float,
        blocked_s_max: float,
        is_silent: Callable[[Delivery], bool] = lambda _: False,
        report: Report = ignore_block,
        is_alone: bool = False,
        probes: socket.socket | None = None,
    ) -> None:
        self._queue = queue
        self._probes = probes
        self.health = RunnerHealth(late_s=blocked_s_max, stuck_s=blocked_s_max * ALL_FACTOR)
        self._ack_wait_s = ack_wait_s
        self._period_s = ack_wait_s / BEATS_PER_ACK_WAIT
        self._blocked_s_max = blocked_s_max
        self._is_silent = is_silent
        self._report = report
        self._is_alone = is_alone
        self._kept: set[RunLease] = set()
        self._leaving: set[RunLease] = set()
        """Those of `_kept` that are being given up. They are kept until the report is stored."""

    def keep(self, lease: RunLease) -> None:
        """Send heartbeats for the lease's delivery until `release`."""
        self._kept.add(lease)

    def release(self, lease: RunLease) -> None:
        """Send no heartbeats for the lease's delivery any more."""
        self._kept.discard(lease)
        self._leaving.discard(lease)

    @asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        """Send heartbeats during the block, from a thread if the queue allows it."""
        if not self._queue.links_are_threadsafe:
            async with self._queue.open_link() as link, run_alongside(self._beat_forever(link)):
                yield
            return
        loop = asyncio.get_running_loop()
        watch = LoopWatch(loop, threading.get_ident())
        connected, ended = loop.create_future(), loop.create_future()
        thread = _LoopThread(partial(self._watch_forever, watch, connected), ended)
        try:
            await asyncio.wait([connected, ended], return_when=asyncio.FIRST_COMPLETED)
            async with run_alongside(_raise_from(ended)):
                yield
        finally:
            thread.cancel()
            await asyncio.wait([ended])
            ended.exception()  # raised above, unless the block has ended by itself

    async def _beat_forever(self, link: HeartbeatLink) -> None:
        while True:
            await self._beat(link)
            await asyncio.sleep(self._period_s)

    async def _watch_forever(self, watch: LoopWatch, connected: asyncio.Future[None]) -> None:
        """Beat, and look at the watched loop after each beat. Runs in the thread."""
        # Beats go on while a block is reported, which takes a connection to the database.
        async with (
            answering_probes(self._probes, self.health),
            self._queue.open_link() as link,
            asyncio.TaskGroup() as group,
        ):
            watch.loop.call_soon_threadsafe(connected.set_result, None)
            last_s = monotonic()
            while True:
                await self._beat(link)
                stood_s, last_s = monotonic() - last_s, monotonic()
                blocked_s = watch.look()
                self.health.loop_seen(blocked_s)
                self.health.is_connected = link.is_connected
                if max(stood_s, blocked_s) > self._ack_wait_s:
                    watch.call_when_free(self._queue.discard_late_arrivals)
                for leases, report in self._find_blocked(watch, blocked_s):
                    group.create_task(self._give_up(link, watch, leases, report))
                await asyncio.sleep(self._period_s)

    def _find_blocked(
        self, watch: LoopWatch, blocked_s: float
    ) -> Iterator[tuple[Sequence[RunLease], Coroutine[Any, Any, None] | None]]:
        """The leases to give up now, and the report about it. No lease is found twice."""
        seconds = round(blocked_s, 1)
        if blocked_s > self._blocked_s_max and (blocker := watch.find_blocker()) is not None:
            lease, code = blocker
            if lease in self._kept and lease not in self._leaving:
                self._leaving.add(lease)
                log.error("run_given_up", run=lease.delivery.request.run, code=code.name, seconds=seconds)
                yield [lease], self._report(lease, code, blocked_s)
        if blocked_s > self._blocked_s_max * ALL_FACTOR and (others := self._kept - self._leaving):
            self._leaving |= others
            log.error("all_runs_given_up", runs=len(others), seconds=seconds)
            yield tuple(others), None

    async def _give_up(
        self,
        link: HeartbeatLink,
        watch: LoopWatch,
        leases: Sequence[RunLease],
        report: Coroutine[Any, Any, None] | None,
    ) -> None:
        if report is not None:
            try:
                async with asyncio.timeout(REPORT_TIMEOUT_S):
                    await report
            except (Unavailable, TimeoutError) as fault:
                log.warning("block_not_reported", error=str(fault) or type(fault).__name__)
        if self._is_alone:
            sys.stderr.flush()
            os._exit(BLOCKED_EXIT)
        for lease in leases:
            self.release(lease)
            watch.call_when_free(lease.lose)  # its execution stops as soon as the loop returns
            with suppress(Unavailable):  # then the ack wait ends the delivery
                await link.give_up(lease.delivery.receipt)

    async def _beat(self, link: HeartbeatLink) -> None:
        """Send one heartbeat for each kept delivery."""
        try:
            for lease in tuple(self._kept):
                if not self._is_alone and not self._is_silent(lease.delivery):
                    await link.keep(lease.delivery.receipt)
        except Unavailable as fault:
            log.warning("heartbeat_failed", error=str(fault))


class _LoopThread:
    """A thread that runs a coroutine in an event loop of its own; `ended` gets its outcome."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], ended: asyncio.Future[None]) -> None:
        self._work = work
        self._ended = ended
        self._owner = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None
        self._cancelled = False
        threading.Thread(target=self._run, name="heartbeat", daemon=True).start()

    def cancel(self) -> None:
        """Cancel the coroutine. Called in the owner's loop."""
        with suppress(RuntimeError):  # its loop is closed already
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    async def _main(self) -> None:
        self._task = asyncio.current_task()
        if not self._cancelled:
            await self._work()

    def _run(self) -> None:
        fault: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except asyncio.CancelledError:
            pass
        except BaseException as error:  # noqa: BLE001 - the owner raises it
            fault = error
        with suppress(RuntimeError):  # the owner's loop is closed: nobody waits
            self._owner.call_soon_threadsafe(self._settle, fault)

    def _settle(self, fault: BaseException | None) -> None:
        if fault is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(fault)


async def _raise_from(ended: asyncio.Future[None]) -> None:
    await asyncio.shield(ended)
