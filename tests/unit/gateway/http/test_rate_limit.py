"""Limits in memory: bursts that a rate allows and the wait it reports, failed logins, open streams."""

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_adapters.store_types import Owner
from rejoin_gateway.http.rate_limit import (
    TENANT_RATE_TTL_S,
    FailedLogins,
    OpenStreams,
    Rate,
    RateLimiter,
    TenantRates,
)
from rejoin_protocol.errors import Limited, Unavailable
from rejoin_protocol.ids import TenantId, UserId


def test_as_many_at_once_as_the_rate_says_and_then_the_wait_is_named() -> None:
    limiter, rate = RateLimiter(), Rate(3, 60)
    assert [limiter.take("a", rate, 0.0) for _ in range(3)] == [0, 0, 0]
    assert limiter.take("a", rate, 0.0) == 20
    assert limiter.take("a", rate, 5.0) == 15, "a refusal costs nothing"
    assert limiter.take("a", rate, 20.0) == 0


def test_names_do_not_disturb_each_other() -> None:
    limiter, rate = RateLimiter(), Rate(1, 60)
    assert limiter.take("a", rate, 0.0) == 0
    assert limiter.take("b", rate, 0.0) == 0
    assert limiter.take("a", rate, 1.0) == 59


def test_what_is_remembered_is_bounded() -> None:
    limiter, rate = RateLimiter(names_max=2), Rate(1, 60)
    for name in "abc":
        limiter.take(name, rate, 0.0)
    assert len(limiter._due_s) == 2
    assert limiter.take("c", rate, 0.0) > 0, "the newest is known"


@given(
    count=st.integers(1, 20),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=60),
)
def test_no_window_of_a_period_holds_more_than_twice_the_rate(count: int, gaps: list[float]) -> None:
    """A burst after a silence, and then the steady rate: never more than that."""
    limiter, rate, now, taken = RateLimiter(), Rate(count, 60), 0.0, []
    for gap in gaps:
        now += gap
        if limiter.take("a", rate, now) == 0:
            taken.append(now)
    for start in taken:
        assert sum(start <= one < start + 60 for one in taken) <= 2 * count


class Known:
    """The rates of tenants, and a count of the look-ups."""

    def __init__(self, **counts: int | None) -> None:
        self.counts = counts
        self.asked: list[str] = []
        self.away = False

    async def find(self, tenant: TenantId) -> int | None:
        self.asked.append(tenant)
        if self.away:
            raise Unavailable("away")
        return self.counts.get(tenant)


async def test_a_tenants_own_rate_goes_before_the_usual_one_and_is_looked_up_now_and_then() -> None:
    known = Known(a=5)
    rates, a, b = TenantRates(Rate(3), known.find), TenantId("a"), TenantId("b")
    assert [await rates.rate_of(one, 0.0) for one in (a, b, a, b)] == [Rate(5), Rate(3)] * 2
    assert known.asked == ["a", "b"]
    known.counts["a"] = 7
    assert await rates.rate_of(a, TENANT_RATE_TTL_S - 1) == Rate(5)
    assert await rates.rate_of(a, TENANT_RATE_TTL_S) == Rate(7)
    known.counts["a"] = None
    assert await rates.rate_of(a, 2 * TENANT_RATE_TTL_S) == Rate(3), "its own is gone"


async def test_while_the_database_is_away_the_rate_that_was_known_counts() -> None:
    known = Known(a=5)
    rates, a = TenantRates(None, known.find), TenantId("a")
    assert await rates.rate_of(a, 0.0) == Rate(5)
    known.away = True
    assert await rates.rate_of(a, TENANT_RATE_TTL_S) == Rate(5)
    assert await rates.rate_of(a, TENANT_RATE_TTL_S + 1) == Rate(5)
    assert len(known.asked) == 2, "it is not asked at every request"


async def test_the_tenants_that_are_remembered_are_bounded() -> None:
    known = Known()
    rates = TenantRates(None, known.find, names_max=2)
    for name in "abca":
        assert await rates.rate_of(TenantId(name), 0.0) is None
    assert known.asked == ["a", "b", "c", "a"]


def test_wrong_keys_of_an_address_or_of_an_id_are_not_checked_beyond_the_rate() -> None:
    logins = FailedLogins(Rate(2, 60))
    for number in range(2):
        logins.check("1.2.3.4", f"rk_{number}", 0.0)
        logins.record("1.2.3.4", f"rk_{number}", 0.0, succeeded=False)
    with pytest.raises(Limited, match="at most 2 a minute") as refusal:
        logins.check("1.2.3.4", "rk_2", 0.0)
    assert refusal.value.retry_after_s == 30
    logins.check("5.6.7.8", "rk_2", 0.0)
    logins.record("5.6.7.8", "rk_0", 0.0, succeeded=False)
    with pytest.raises(Limited):
        logins.check("9.9.9.9", "rk_0", 0.0)
    logins.check("1.2.3.4", "rk_2", 60.0)


def test_guesses_lock_nobody_out_whose_key_was_right_before() -> None:
    logins = FailedLogins(Rate(1, 60))
    logins.record("1.2.3.4", "rk_mine", 0.0, succeeded=True)
    for _ in range(3):
        logins.record("1.2.3.4", "rk_mine", 0.0, succeeded=False)
        logins.record("1.2.3.4", "rk_other", 0.0, succeeded=False)
    logins.check("1.2.3.4", "rk_mine", 0.0)


def test_streams_are_counted_for_the_user_and_for_the_tenant_and_given_back() -> None:
    streams = OpenStreams(tenant_max=3, user_max=2)
    tenant = Owner(TenantId("t"))
    ann, ben = Owner(tenant.tenant, UserId("ann")), Owner(tenant.tenant, UserId("ben"))
    with ExitStack() as held:
        held.enter_context(streams.hold(ann))
        with streams.hold(ann), pytest.raises(Limited, match="you have 2 streams open"):
            streams.check(ann)
        held.enter_context(streams.hold(ben))
        held.enter_context(streams.hold(tenant))
        for owner in (tenant, ann, ben):
            with pytest.raises(Limited, match="the tenant has 3 streams open"):
                streams.check(owner)
        streams.check(Owner(TenantId("other")))
    assert streams._counts == {}
