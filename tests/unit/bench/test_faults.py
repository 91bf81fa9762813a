"""Figures of streams that were cut: what viewers lack, and what they show twice."""

from bench.scenarios.faults import cut_figures


def measures(*views: list[int]) -> dict[str, float]:
    return {figure.measure: figure.value for figure in cut_figures("cut streams", "rejoin", 3, views)}


def test_missing_and_repeated_tokens_count() -> None:
    assert measures([1, 2, 3], [1, 3], [1, 2, 2, 3, 3]) == {"viewers": 3, "lost": 1, "doubled": 2}


def test_without_a_viewer_nothing_is_said_to_be_complete() -> None:
    assert measures() == {"viewers": 0}
