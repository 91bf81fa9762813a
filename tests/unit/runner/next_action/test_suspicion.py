"""What lost attempts say about a run: the rule that decides who is executed alone and who fails."""

import pytest

from rejoin_adapters.store_types import Loss
from rejoin_protocol.events import chunks
from rejoin_protocol.ids import CallId
from rejoin_runner.next_action.run_state import RunState
from rejoin_runner.next_action.suspicion import (
    DEATHS_MAX,
    SILENT_LOSSES_MAX,
    Suspicion,
    failed_attempts,
    judge,
    unwritten_attempts,
)


def state(progress_attempt: int = 0) -> RunState:
    """A run with an open call of the tool `pay`."""
    state = RunState()
    for chunk in (
        chunks.Start(message_id="m"),
        chunks.StartStep(),
        chunks.ToolInputAvailable(tool_call_id="c", tool_name="pay", input={}),
    ):
        state.apply(chunk)
    state.progress_attempt = progress_attempt
    return state


def blocked(attempt: int, call: str = "c") -> Loss:
    return Loss(attempt, "blocked", "the tool pay", CallId(call), 10.2)


@pytest.mark.parametrize("losses", [[], [Loss(1)]])
def test_a_run_that_was_lost_once_is_executed_beside_others(losses: list[Loss]) -> None:
    """Machines die, too."""
    assert judge(losses, state()) is Suspicion.NONE


@pytest.mark.parametrize(
    "losses", [[Loss(1), Loss(2)], [blocked(1)], [Loss(3, "died")], [Loss(n) for n in range(1, 100)]]
)
def test_a_run_that_was_lost_twice_or_for_a_known_reason_is_executed_alone(losses: list[Loss]) -> None:
    """However often: silent losses never fail a run."""
    assert judge(losses, state()) is Suspicion.ALONE


def test_losses_before_the_last_progress_do_not_count() -> None:
    """A run whose attempts all make progress is lost once at each point, however often its runners die."""
    losses = [Loss(attempt) for attempt in range(1, 10)]
    assert judge(losses, state(progress_attempt=9)) is Suspicion.NONE
    assert judge(losses, state(progress_attempt=10 - SILENT_LOSSES_MAX)) is Suspicion.ALONE
    assert judge([Loss(n, "died") for n in range(1, DEATHS_MAX + 1)], state(2)) is Suspicion.ALONE


def test_code_that_blocked_two_event_loops_fails_its_run() -> None:
    assert judge([blocked(1), blocked(2)], state()) == (
        "The run failed: the tool pay blocked its runner for 10 s, twice."
    )


def test_a_call_that_blocks_counts_until_it_has_its_result_whatever_other_calls_do() -> None:
    assert isinstance(judge([blocked(1), blocked(2)], state(progress_attempt=3)), str)
    assert judge([blocked(1, "earlier"), blocked(2, "earlier")], state(progress_attempt=3)) is Suspicion.NONE


def test_two_calls_that_block_once_each_are_not_one_that_blocks_twice() -> None:
    assert judge([blocked(1), blocked(2, "other")], state()) is Suspicion.ALONE


def test_a_run_that_was_alone_in_processes_that_died_fails() -> None:
    losses = [Loss(1), Loss(2), *(Loss(3 + n, "died") for n in range(DEATHS_MAX))]
    assert judge(losses, state()) == (
        "The run failed: it ended its own process during a call of pay, 3 times."
    )
    assert judge(losses[:-1], state()) is Suspicion.ALONE


def test_attempts_that_were_lost_with_their_process_are_no_failures_of_the_run() -> None:
    """However often: a run that others take along never has too many attempts."""
    many = state()
    many.fruitless_attempts = set(range(1, 101))
    silent = [Loss(attempt) for attempt in range(1, 98)]
    assert failed_attempts(silent, many) == 3
    assert failed_attempts([*silent, blocked(98), Loss(99, "died")], many) == 3
    assert failed_attempts([], many) == 100


def test_attempts_that_were_lost_before_they_wrote_anything_are_no_failures_either() -> None:
    known = state()
    known.attempt = 4
    assert unwritten_attempts([], known, 10) == 5
    assert unwritten_attempts([Loss(2), *(Loss(attempt) for attempt in range(5, 9))], known, 10) == 1
    assert unwritten_attempts([Loss(attempt) for attempt in range(5, 10)], known, 10) == 0
