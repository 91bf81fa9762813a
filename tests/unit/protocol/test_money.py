"""Money is whole billionths of a dollar inside, and a number of dollars for clients."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis.strategies import integers

from rejoin_protocol.money import NANO_USD_MAX, from_usd, parse_usd, show_usd, to_usd


@given(integers(0, NANO_USD_MAX))
def test_no_billionth_is_lost_in_json(nano_usd: int) -> None:
    assert parse_usd(msgspec.json.decode(msgspec.json.encode(to_usd(nano_usd)))) == nano_usd


@pytest.mark.parametrize("value", ["1", -0.1, None, True, [], float("nan"), float("inf"), 1e10])
def test_what_is_no_amount_is_no_cost(value: Any) -> None:
    assert parse_usd(value) is None


def test_an_unknown_cost_is_not_zero() -> None:
    assert (to_usd(None), to_usd(0)) == (None, 0)
    assert [show_usd(one) for one in (None, 0, 1, 12_345_678, 5 * 10**9)] == [
        "-",
        "$0.0000",
        "<$0.0001",
        "$0.0123",
        "$5.0000",
    ]


def test_half_a_billionth_is_rounded_to_even() -> None:
    assert [from_usd(Decimal(text)) for text in ("0.0000000005", "0.0000000015", "1.25")] == [
        0,
        2,
        125 * 10**7,
    ]
