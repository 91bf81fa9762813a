"""Where a client is in a run, in each of the ways it may say so. Pure.

Precedence: `Last-Event-ID`, `?cursor=`, then the counts. A browser's EventSource repeats the URL it was
opened with and tells where it is by the header, so the header knows best.
"""

from collections.abc import Mapping

import msgspec
from rejoin_protocol.errors import Invalid
from rejoin_protocol.log import cursor
from rejoin_protocol.log.cursor import Cursor

COUNT_DIGITS_MAX = 12


class FromStart(msgspec.Struct, frozen=True):
    """From the first event."""


class AfterCursor(msgspec.Struct, frozen=True):
    """Behind the event that a cursor names."""

    cursor: Cursor


class AfterCount(msgspec.Struct, frozen=True):
    """Without the first `events` that this client sees; negative: only the last ones."""

    events: int


class FromTurn(msgspec.Struct, frozen=True):
    """From the beginning of a turn: what followed the decision that opened it."""

    turn: int


type Position = FromStart | AfterCursor | AfterCount | FromTurn


def parse_position(headers: Mapping[str, str], query: Mapping[str, str]) -> Position:
    """The position of a GET request. Raises `Invalid`."""
    named = headers.get("Last-Event-ID") or query.get("cursor")
    if named:
        return AfterCursor(cursor.parse(named))
    start = headers.get("x-stream-start-index") or query.get("startIndex")
    if start:
        return AfterCount(_number(start, "startIndex"))
    after = query.get("afterIdx")
    if after:
        return AfterCount(_number(after, "afterIdx") + 1)
    return FromStart()


def _number(text: str, name: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= COUNT_DIGITS_MAX):
        raise Invalid(f"{name} is not a whole number: {text[:64]!r}")
    return int(text)
