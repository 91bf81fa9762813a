"""Takes the log of a run over for a new attempt, so that no earlier attempt can append."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.process.background import DetachedTasks, Outcome
from rejoin_adapters.store_types import Run
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import RunId
from rejoin_runner.next_action.run_state import RunState
from rejoin_runner.output.journal import Journal
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.worker.configuration import WorkerPorts

TAKEOVER_PAUSE_S = 0.02
"""Between two tries to take a log over whose earlier writer still appends."""
FIRST_ATTEMPT = 1

log = structlog.get_logger("rejoin.worker")


class LogTakeover:
    """The takeover of one delivered run's log. `state`: what the log has said; the journal changes it."""

    def __init__(self, ports: WorkerPorts, metrics: RunnerMetrics) -> None:
        self.state = RunState()
        self._ports = ports
        self._metrics = metrics
        self._early: asyncio.Task[Outcome[Journal]] | None = None

    @contextmanager
    def begun_early(self, delivery: Delivery, tasks: DetachedTasks) -> Iterator[None]:
        """Take over the log of a new run while the database claims it: its first event waits for both.

        The record has no events and says attempt 1, as the claim of a new run does. If the claim fails, or is
        of another attempt, nobody writes behind the record, so that it decides nothing: another attempt 1
        finds the head that it would have appended, and a later attempt takes over from it as from any other.
        """
        request = delivery.request
        if request.turn == 0 and delivery.delivery_count == 1:
            self._early = tasks.start(self._append(request.run, FIRST_ATTEMPT))
        try:
            yield
        finally:
            if self._early is not None:
                self._early.cancel()

    async def finish(self, run: Run) -> Journal:
        """Append to the log as the claimed attempt, unless that has been done. Raises `Fenced` if a newer
        attempt has taken the log over.
        """
        if self._early is not None and run.attempt == FIRST_ATTEMPT:
            outcome = await self._early
            if outcome.value is not None:
                return outcome.value
        while True:
            if self.state.attempt > run.attempt:
                raise Fenced(f"run {run.id} is attempt {self.state.attempt}'s")
            try:
                journal = await self._append(run.id, run.attempt)
            except Fenced:
                # The earlier attempt appended after our read, or the read came from a replica that is behind.
                # A writer that never pauses would win every time, so the control message stops it.
                log.info("takeover_retried")
                await self._ports.control.supersede(run.id, run.attempt)
                await asyncio.sleep(TAKEOVER_PAUSE_S)
                await self.read_log(run.id)
            else:
                if self.state.attempts > 0:  # another attempt wrote in this turn
                    self._metrics.run_taken_over(run.agent)
                if run.attempt > FIRST_ATTEMPT:
                    # A silent runner may still work, for example call tools. It stops when it hears this.
                    await self._ports.control.supersede(run.id, run.attempt)
                return journal

    async def read_log(self, run: RunId) -> None:
        """Apply the records that `state` does not have yet. The earlier attempt may append meanwhile."""
        more = True
        while more:
            page = await self._ports.run_log.read(run, after=self.state.last_seq)
            for record in page.records:
                self.state.apply_record(record)
            more = page.more

    async def _append(self, run: RunId, attempt: int) -> Journal:
        journal = Journal(self._ports.run_log, run, attempt, self.state, self._metrics.appended)
        await journal.take_over()
        return journal
