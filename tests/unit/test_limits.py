"""The rate of one name: what it may do at once, and how long it waits then."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.limits import Limiter, Rate


def test_as_many_at_once_as_the_rate_says_and_then_the_wait_is_named() -> None:
    limiter, rate = Limiter(), Rate(3, 60)
    assert [limiter.take("a", rate, 0.0) for _ in range(3)] == [0, 0, 0]
    assert limiter.take("a", rate, 0.0) == 20
    assert limiter.take("a", rate, 5.0) == 15, "a refusal costs nothing"
    assert limiter.take("a", rate, 20.0) == 0


def test_names_do_not_disturb_each_other() -> None:
    limiter, rate = Limiter(), Rate(1, 60)
    assert limiter.take("a", rate, 0.0) == 0
    assert limiter.take("b", rate, 0.0) == 0
    assert limiter.take("a", rate, 1.0) == 59


def test_what_is_remembered_is_bounded() -> None:
    limiter, rate = Limiter(names_max=2), Rate(1, 60)
    for name in "abc":
        limiter.take(name, rate, 0.0)
    assert len(limiter._due) == 2
    assert limiter.take("c", rate, 0.0) > 0, "the newest is known"


@given(
    count=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=60),
)
def test_no_window_of_a_period_holds_more_than_twice_the_rate(count: int, gaps: list[float]) -> None:
    """A burst after a silence, and then the steady rate: never more than that."""
    limiter, rate, now, taken = Limiter(), Rate(count, 60), 0.0, []
    for gap in gaps:
        now += gap
        if limiter.take("a", rate, now) == 0:
            taken.append(now)
    for start in taken:
        assert sum(start <= one < start + 60 for one in taken) <= 2 * count
