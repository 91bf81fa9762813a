"""Takes the log of a run over for a new attempt, so that no earlier attempt can append."""

import asyncio

import structlog

from rejoin_adapters.store_types import Run
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import RunId
from rejoin_runner.next_action.run_state import RunState
from rejoin_runner.output.journal import Journal
from rejoin_runner.run.metrics import RunnerMetrics
from rejoin_runner.worker.configuration import WorkerPorts

TAKEOVER_PAUSE_S = 0.02
"""Between two tries to take a log over whose earlier writer still appends."""

log = structlog.get_logger("rejoin.worker")


class LogTakeover:
    """The takeover of one delivered run's log. `state`: what the log has said; the journal changes it."""

    def __init__(self, ports: WorkerPorts, metrics: RunnerMetrics) -> None:
        self.state = RunState()
        self._ports = ports
        self._metrics = metrics

    async def take_over(self, run: Run) -> Journal:
        """Append to the log, which `state` has read, as the claimed attempt: no earlier attempt can append
        any more. Raises `Fenced` if a newer attempt has taken the log over.
        """
        while True:
            if self.state.attempt > run.attempt:
                raise Fenced(f"run {run.id} is attempt {self.state.attempt}'s")
            journal = Journal(self._ports.run_log, run.id, run.attempt, self.state, self._metrics.appended)
            try:
                await journal.take_over()
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
                if run.attempt > 1:
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
