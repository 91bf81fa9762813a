"""The transition table, for every pair of state and event."""

from itertools import product

import pytest

from rejoin_protocol.errors import Conflict
from rejoin_protocol.lifecycle import BUSY, TERMINAL, TRANSITIONS, LifecycleEvent, State, next_state

LEGAL = """
    queued     claim     running
    running    claim     running
    running    suspend   suspended
    running    complete  completed
    running    fail      failed
    running    cancel    cancelled
    suspended  resume    queued
    suspended  cancel    cancelled
"""


def legal() -> dict[tuple[str, str], str]:
    return {(state, event): then for state, event, then in map(str.split, LEGAL.strip().splitlines())}


@pytest.mark.parametrize(("state", "event"), list(product(State, LifecycleEvent)))
def test_every_pair_is_either_written_down_here_or_refused(state: State, event: LifecycleEvent) -> None:
    if (then := legal().get((state, event))) is not None:
        assert next_state(state, event) == then
    else:
        with pytest.raises(Conflict, match=f"a {state} run cannot {event}"):
            next_state(state, event)


@pytest.mark.parametrize("state", State)
def test_only_terminal_states_have_no_way_out(state: State) -> None:
    assert (state in TERMINAL) == all(before is not state for before, _ in TRANSITIONS)


@pytest.mark.parametrize("state", State)
def test_every_run_can_still_end(state: State) -> None:
    reached = {state}
    while following := {then for (before, _), then in TRANSITIONS.items() if before in reached} - reached:
        reached |= following
    assert reached & TERMINAL


def test_a_session_is_busy_with_what_a_runner_has_or_is_to_take() -> None:
    assert {before for before, event in TRANSITIONS if event is LifecycleEvent.CLAIM} == BUSY
