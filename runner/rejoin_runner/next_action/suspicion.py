"""Whether a run may have ended the process of an earlier attempt, and what follows from that. Pure.

A process that dies takes all of its runs along, and nobody knows which one it was. Machines die too, so a run
that was lost once is taken over as any other. A run that was lost twice without progress in between, or whose
code is known to have blocked an event loop, is executed alone, in a process of its own: if that process dies,
the run is the reason, and no other run is lost. Only what is known about a run counts against it: an innocent
run that shared a process with a bad one, however often, never fails.
"""

from collections import Counter
from collections.abc import Sequence
from enum import Enum, auto

from rejoin_adapters.store_types import Loss
from rejoin_runner.next_action.run_state import RunState

SILENT_LOSSES_MAX = 2
"""The number of losses without a known cause after which a run is quarantined."""
BLOCKS_MAX = 2
"""How often the same code blocks an event loop before the run fails."""
DEATHS_MAX = 3
"""How many of its own processes a run ends before it fails. Something else may have killed one or two of
them.
"""


class Suspicion(Enum):
    """How a run is executed."""

    NONE = auto()
    ALONE = auto()
    """In a process of its own, until it has made progress."""


def judge(losses: Sequence[Loss], state: RunState) -> Suspicion | str:
    """Decide by the lost attempts how a run is executed. `state`: its folded log. Returns an error text if
    the run must fail.
    """
    open_calls = {call.id for call in state.all_open_calls}
    # The attempt that made the last progress was lost after it, at the point where the run is now. A call
    # that blocks counts for as long as it has no result, whatever other calls of its step have done.
    lost = [loss for loss in losses if loss.cause != "failed"]
    current = [loss for loss in lost if loss.attempt >= state.progress_attempt or loss.call in open_calls]
    blocked = Counter((loss.code, loss.call) for loss in current if loss.cause == "blocked")
    for (code, call), count in blocked.items():
        if count >= BLOCKS_MAX:
            seconds = max(loss.seconds or 0 for loss in current if (loss.code, loss.call) == (code, call))
            return f"The run failed: {code} blocked its runner for {seconds:.0f} s, {_times(count)}."
    deaths = sum(loss.cause == "died" for loss in current)
    if deaths >= DEATHS_MAX:
        names = ", ".join(sorted({call.tool for call in state.all_open_calls}))
        during = f" during a call of {names}" if names else ""
        return f"The run failed: it ended its own process{during}, {_times(deaths)}."
    if blocked or deaths or len(current) >= SILENT_LOSSES_MAX:
        return Suspicion.ALONE
    return Suspicion.NONE


def failed_attempts(losses: Sequence[Loss], state: RunState) -> tuple[int, int]:
    """How many attempts without progress have ended by an error of their own: those that have written to the
    log, and all. An attempt that was lost, or gave its run back, is none of them: others may be the reason.
    """
    failed = {one.attempt for one in losses if one.cause == "failed" and one.attempt > state.progress_attempt}
    return len(failed & state.fruitless_attempts), len(failed)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
