"""Records what the model of a step is asked and what it answers, if the runner's operator wants it.

Records are stored by tasks of their own: no event waits for them, and a failure to store one changes nothing.
How much is stored of a tenant in an hour has a bound: beyond it, and where the broker does not take a message
of that size, the text is left out, which the size in the record shows.
"""

from collections.abc import Callable

import msgspec
import structlog

from rejoin_adapters.ports.run_log import RunLog
from rejoin_adapters.store_types import Run
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import TenantId
from rejoin_protocol.log import model_call
from rejoin_protocol.log.model_call import (
    ReceivedAnswer,
    RecordedAnswer,
    RecordedPart,
    RecordedRequest,
    SentRequest,
)
from rejoin_protocol.security.sealing import Sealer
from rejoin_runner.models.call_recording import OnAnswer, OnRequest
from rejoin_runner.run.attempt import Attempt, StoreCall

log = structlog.get_logger("rejoin.model_calls")

HOUR_S = 3600


class CallRecorder:
    """Stores the calls of all runs of a runner. `hourly_bytes_max`: of one tenant. `clock_s`: monotonic.
    Without a sealer the records are not encrypted.
    """

    def __init__(
        self, run_log: RunLog, sealer: Sealer | None, hourly_bytes_max: int, clock_s: Callable[[], float]
    ) -> None:
        self._run_log = run_log
        self._sealer = sealer
        self._hourly_bytes_max = hourly_bytes_max
        self._clock_s = clock_s
        self._hour = 0
        self._stored: dict[TenantId, int] = {}
        """Bytes of this hour."""

    def store_of(self, run: Run) -> StoreCall:
        """What stores a record of the run."""

        async def store(part: RecordedPart) -> None:
            tenant = run.owner.tenant
            packed = model_call.pack(part, self._sealer, tenant, run.id)
            if self._is_too_much(tenant, len(packed)):
                log.warning("recorded_call_cut", run=run.id, cause="its tenant has much this hour")
            else:
                try:
                    await self._run_log.add_model_call(run.id, part.step, packed)
                except Invalid as fault:
                    log.warning("recorded_call_cut", run=run.id, cause=str(fault))
                else:
                    return
            short = model_call.pack(model_call.without_text(part), self._sealer, tenant, run.id)
            await self._run_log.add_model_call(run.id, part.step, short)

        return store

    def _is_too_much(self, tenant: TenantId, size: int) -> bool:
        hour = int(self._clock_s() // HOUR_S)
        if hour != self._hour:
            self._hour, self._stored = hour, {}
        stored = self._stored.get(tenant, 0) + size
        if stored > self._hourly_bytes_max:
            return True
        self._stored[tenant] = stored
        return False


def reporter(attempt: Attempt) -> OnRequest | None:
    """Stores the calls of the present step; None if they are not recorded."""
    store = attempt.store_call
    if store is None:
        return None
    step, number, agent = attempt.state.steps, attempt.run.attempt, attempt.agent.name

    def keep(part: RecordedPart) -> None:
        storing = store(part)
        try:
            attempt.tasks.start(storing)
        except RuntimeError:  # the process ends at once
            storing.close()

    def on_request(request: SentRequest) -> OnAnswer:
        call = f"{number}.{next(attempt.call_numbers)}"
        fields = msgspec.structs.asdict(request)
        keep(RecordedRequest(call=call, step=step, attempt=number, agent=agent, **fields))

        def on_answer(answer: ReceivedAnswer) -> None:
            keep(RecordedAnswer(call=call, step=step, **msgspec.structs.asdict(answer)))

        return on_answer

    return on_request
