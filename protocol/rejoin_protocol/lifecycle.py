"""The life of a run: its states, what may happen to it, and nothing else.

    queued ─▶ running ─▶ completed
      ▲          │  └──▶ failed · cancelled
      │          ▼
      └──── suspended ─▶ cancelled

The table is the law: a missing key is the error. The database repeats it as a trigger, so that an illegal
transition cannot be written whoever writes. Terminal runs have no way out. Only a runner ends a run that
has a log to close: an interrupt is a flag that it finds, and resumes a run that is suspended. A suspended
run, whose log is closed already, may also be cancelled where its message is deleted.
"""

from enum import StrEnum

from rejoin_protocol.errors import Conflict


class State(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class LifecycleEvent(StrEnum):
    """What may happen to a run."""

    CLAIM = "claim"  # a runner takes it, or takes it over
    SUSPEND = "suspend"  # every open call waits for a decision
    RESUME = "resume"  # it waits for nothing any more: all is decided or expired, or it is interrupted
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: dict[tuple[State, LifecycleEvent], State] = {
    (State.QUEUED, LifecycleEvent.CLAIM): State.RUNNING,
    (State.RUNNING, LifecycleEvent.CLAIM): State.RUNNING,
    (State.RUNNING, LifecycleEvent.SUSPEND): State.SUSPENDED,
    (State.RUNNING, LifecycleEvent.COMPLETE): State.COMPLETED,
    (State.RUNNING, LifecycleEvent.FAIL): State.FAILED,
    (State.RUNNING, LifecycleEvent.CANCEL): State.CANCELLED,
    (State.SUSPENDED, LifecycleEvent.RESUME): State.QUEUED,
    (State.SUSPENDED, LifecycleEvent.CANCEL): State.CANCELLED,
}

TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
BUSY = frozenset({State.QUEUED, State.RUNNING})
"""A session with such a run is busy: its next run waits."""


def next_state(state: State, event: LifecycleEvent) -> State:
    """The state that follows. Raises `Conflict` where the table has no way."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise Conflict(f"a {state} run cannot {event}") from None
