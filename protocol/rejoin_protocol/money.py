"""Amounts of money: whole billionths of a US dollar, so that sums are exact. Pure.

Stored and added as `int`. JSON for clients has US dollars, as a number with at most nine decimals.
"""

from decimal import Decimal
from typing import Any

NANO_USD_PER_USD = 10**9
NANO_USD_MAX = 2**53
"""About nine million dollars: up to here a JSON number keeps each billionth."""


def to_usd(nano_usd: int | None) -> float | None:
    """An amount in US dollars, for JSON. None: unknown."""
    return None if nano_usd is None else nano_usd / NANO_USD_PER_USD


def from_usd(usd: Decimal) -> int:
    """US dollars as billionths, rounded half to even."""
    return int((usd * NANO_USD_PER_USD).to_integral_value())


def parse_usd(value: Any) -> int | None:
    """The amount that `to_usd` wrote. None for anything else: the JSON may come from user code."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return round(value * NANO_USD_PER_USD) if 0 <= value <= NANO_USD_MAX / NANO_USD_PER_USD else None


def show_usd(nano_usd: int | None) -> str:
    """An amount for people: `$0.0123`; `-` if it is unknown."""
    if nano_usd is None:
        return "-"
    usd = Decimal(nano_usd) / NANO_USD_PER_USD
    return f"${usd:.4f}" if nano_usd == 0 or usd >= Decimal("0.0001") else "<$0.0001"
