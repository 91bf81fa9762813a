"""What became of a message that a client sends while a run works. Pure."""

import msgspec

from rejoin_adapters.store_types import Run
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import steering_fault
from rejoin_protocol.ids import MessageId, RunId


class Steered(msgspec.Struct, frozen=True):
    """A message that reaches `run` at its next step, or has reached it: that run's stream has it. If the run
    ends before, the message is the session's next turn.
    """

    run: Run
    message: MessageId


def steered_run(message: MessageId, run: Run) -> RunId | None:
    """The run that a message steers or has steered. `run`: the message's, as the store returns it. None: that
    run answers it.
    """
    return run.steers or (run.id if run.user_message != message else None)


def check_steering(message: MessageDict, pointer: str) -> None:
    """Raises `Invalid` for a message that cannot steer a run, with its place in the message at `pointer`."""
    fault = steering_fault(message)
    if fault is not None:
        detail, place = fault
        raise Invalid(detail, pointer + place)
