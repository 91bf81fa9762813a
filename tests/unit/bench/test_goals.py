"""The benchmark's goals: a figure is compared with a limit, or with another figure of the same run."""

import pytest

from bench.figures import Figure
from bench.goals import GOALS, Verdict, goals_without_figure, judge


def verdicts(*figures: Figure) -> list[Verdict]:
    return [verdict for _, verdict in judge(figures) if verdict is not None]


def test_a_limit_of_its_own_is_kept_or_missed() -> None:
    [good] = verdicts(Figure("start", "import", "rejoin_gateway.app", 0.5, "s"))
    [bad] = verdicts(Figure("start", "import", "rejoin_gateway.app", 0.51, "s"))
    assert (good.met, bad.met) == (True, False)
    assert str(bad) == "0.51, at most 0.5 s, before 0.66: MISSED"


def test_a_rate_is_measured_in_the_baselines_whichever_line_came_first() -> None:
    ours = Figure("live throughput, 50 runs", "rejoin", "rate", 500.0, "events/s")
    bare = Figure("live throughput, 50 runs", "bare", "rate", 1_000.0, "events/s")
    for figures in ((ours, bare), (bare, ours)):
        [one] = verdicts(*figures)
        assert str(one) == "0.50, at least 0.6 times bare: MISSED"


def test_a_difference_is_what_it_takes_more_than_the_baseline() -> None:
    title = "first event, 50 under way"
    [one] = verdicts(Figure(title, "rejoin", "p50", 12.0, "ms"), Figure(title, "bare", "p50", 2.5, "ms"))
    assert (one.value, one.met) == (9.5, True)
    assert one.goal == "at most 10 ms over bare"


def test_the_figure_when_the_goal_was_set_stands_beside_it() -> None:
    [one] = verdicts(Figure("short runs", "rejoin", "CPU", 4.5, "ms/run"))
    assert str(one) == "4.50, at most 5 ms/run, before 9: met"


def test_a_goal_that_was_set_beside_a_peer_is_a_ratio_to_that_peer_where_it_is_measured() -> None:
    ours = Figure("short runs", "rejoin", "CPU", 12.0, "ms/run")
    [alone] = verdicts(ours)
    [beside] = verdicts(ours, Figure("short runs", "ai-sdk", "CPU", 15.0, "ms/run"))
    assert str(alone) == "12.00, at most 5 ms/run, before 9: MISSED"
    assert str(beside) == "0.80, at most 0.833 times ai-sdk, before 1.5: met"


def test_the_first_answer_is_compared_with_that_of_the_peer() -> None:
    ours = Figure("start", "first answer", "cold", 4.0, "s")
    [one] = verdicts(ours, Figure("start", "first answer", "ai-sdk", 1.0, "s"))
    assert (one.value, one.met) == (4.0, True)
    assert one.goal == "at most 4.55 times first answer ai-sdk, before 9.02"


def test_growth_is_measured_in_what_few_runs_take() -> None:
    few = Figure("growth, 10,000 runs stored", "few", "replay p50", 10.0, "ms")
    many = Figure("growth, 10,000 runs stored", "rejoin", "replay p50", 14.0, "ms")
    [one] = verdicts(few, many)
    assert (one.value, one.met) == (1.4, False)


def test_a_baseline_that_is_missing_is_said() -> None:
    with pytest.raises(LookupError, match="nats, p99: not measured"):
        verdicts(Figure("live latency, 150 runs at 10/s", "rejoin", "p99", 3.0, "ms"))


def test_a_goal_of_which_no_figure_speaks_is_named() -> None:
    assert len(goals_without_figure([])) == len(GOALS)
    lacking = goals_without_figure([Figure("slow client, 20 MB behind", "rejoin", "missing events", 0.0, "")])
    assert "slow client missing events" not in lacking
    assert "slow client gateway memory" in lacking
