"""Records what the model of a step is asked and what it answers, if the runner's operator wants it.

A record is stored once its call is over, by a task of its own: no event waits for it, and a failure to
store it changes nothing.
"""

import msgspec

from rejoin_protocol.log.model_call import Exchange, RecordedCall
from rejoin_runner.models.call_recording import OnExchange
from rejoin_runner.run.attempt import Attempt


def reporter(attempt: Attempt) -> OnExchange | None:
    """Stores the calls of the present step; None if they are not recorded."""
    store = attempt.store_call
    if store is None:
        return None
    step, number, agent = attempt.state.steps, attempt.run.attempt, attempt.agent.name

    def report(exchange: Exchange) -> None:
        storing = store(
            RecordedCall(step=step, attempt=number, agent=agent, **msgspec.structs.asdict(exchange))
        )
        try:
            attempt.tasks.start(storing)
        except RuntimeError:  # the process ends at once
            storing.close()

    return report
