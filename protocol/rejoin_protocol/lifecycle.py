"""The lifecycle of a run: its states and the events that lead from one to another.

    queued ─▶ running ─▶ completed
      ▲          │  └──▶ failed · cancelled
      │          ▼
      └──── suspended ─▶ cancelled

`TRANSITIONS` is the whole definition: a pair without an entry is an error. A database trigger enforces the
same transitions (`migrations/0002_transitions.sql`), so that no process can store another transition.
Terminal states have no transition.

Only a runner ends a run whose log is open, because the log must end with the run's last events. An interrupt
is therefore only a flag that the runner finds; a suspended run is resumed to be ended. A suspended run, whose
log is already closed, is also cancelled directly when its message is deleted.
"""

from enum import StrEnum

from rejoin_protocol.errors import Conflict


class State(StrEnum):
    """The state of a run, as it is stored."""

    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


INTERNAL_ERROR = "internal_error"
"""The code of a run's failure that has no other."""


class LifecycleEvent(StrEnum):
    """An event that changes the state of a run."""

    CLAIM = "claim"  # a runner claims it, or takes it over from another one
    SUSPEND = "suspend"  # all open tool calls wait for a decision
    RESUME = "resume"  # the last pending approval was decided or has expired, or the run was interrupted
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: dict[tuple[State, LifecycleEvent], State] = {
    (State.QUEUED, LifecycleEvent.CLAIM): State.RUNNING,
    (State.RUNNING, LifecycleEvent.CLAIM): State.RUNNING,  # a takeover: the runner has died
    (State.RUNNING, LifecycleEvent.SUSPEND): State.SUSPENDED,
    (State.RUNNING, LifecycleEvent.COMPLETE): State.COMPLETED,
    (State.RUNNING, LifecycleEvent.FAIL): State.FAILED,
    (State.RUNNING, LifecycleEvent.CANCEL): State.CANCELLED,
    (State.SUSPENDED, LifecycleEvent.RESUME): State.QUEUED,
    (State.SUSPENDED, LifecycleEvent.CANCEL): State.CANCELLED,  # its message was deleted
}

TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
BUSY = frozenset({State.QUEUED, State.RUNNING})
"""A session with a run in one of these states is busy: its next run waits."""


def next_state(state: State, event: LifecycleEvent) -> State:
    """The state after an event. Raises `Conflict` if the table has no such transition."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Conflict(f"a {state} run cannot {event}") from None
