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


def test_only_attempts_that_ended_by_an_error_are_failures_of_the_run() -> None:
    """A run that others take along, however often, never has too many attempts."""
    many = state(progress_attempt=2)
    many.fruitless_attempts = set(range(3, 101))
    innocent = [Loss(attempt) for attempt in range(1, 95)]
    assert failed_attempts([*innocent, blocked(95), Loss(96, "died")], many) == (0, 0)
    failed = [Loss(attempt, "failed") for attempt in (1, 2, 97, 98, 101)]
    assert failed_attempts([*innocent, *failed], many) == (2, 3)


def test_an_attempt_that_failed_makes_no_run_suspect() -> None:
    assert judge([Loss(1, "failed"), Loss(2, "failed"), Loss(3)], state()) is Suspicion.NONE
