"""Positions in requests: `Last-Event-ID`, `cursor`, `startIndex`, `afterIdx`."""

import pytest

from rejoin_gateway.streaming.positions import (
    AfterCount,
    AfterCursor,
    FromStart,
    FromTurn,
    Position,
    counted_from,
    in_turn,
    parse_position,
)
from rejoin_protocol.errors import Invalid
from rejoin_protocol.log.cursor import Cursor

CURSOR = AfterCursor(Cursor(3, 7))


@pytest.mark.parametrize(
    ("headers", "query", "position"),
    [
        ({}, {}, FromStart()),
        ({"Last-Event-ID": "3-7"}, {}, CURSOR),
        ({}, {"cursor": "3-7"}, CURSOR),
        ({"Last-Event-ID": "3-7"}, {"cursor": "1-1", "startIndex": "2"}, CURSOR),
        ({"x-stream-start-index": "5"}, {}, AfterCount(5)),
        ({}, {"startIndex": "5"}, AfterCount(5)),
        ({}, {"startIndex": "0"}, AfterCount(0)),
        ({}, {"startIndex": "-2"}, AfterCount(-2)),
        ({}, {"afterIdx": "4"}, AfterCount(5)),
        ({}, {"afterIdx": "-1"}, AfterCount(0)),
    ],
)
def test_position(headers: dict[str, str], query: dict[str, str], position: Position) -> None:
    assert parse_position(headers, query) == position


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"Last-Event-ID": "x"}, {}),
        ({}, {"cursor": "1"}),
        ({}, {"startIndex": "1.5"}),
        ({}, {"startIndex": "--1"}),
        ({}, {"startIndex": "9" * 13}),
        ({}, {"afterIdx": "²"}),
    ],
)
def test_what_is_no_position_is_named(headers: dict[str, str], query: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        parse_position(headers, query)


@pytest.mark.parametrize(
    ("position", "turn", "found", "counted"),
    [
        (FromStart(), 0, FromStart(), 0),
        (FromStart(), 2, FromTurn(2), 2),
        (AfterCount(5), 0, AfterCount(5), 0),
        (AfterCount(-5), 2, AfterCount(-5, 2), 2),
        (CURSOR, 0, CURSOR, 0),
        (CURSOR, 2, AfterCursor(CURSOR.cursor, 2), 2),
    ],
)
def test_a_client_may_have_begun_with_a_turn(
    position: Position, turn: int, found: Position, counted: int
) -> None:
    assert in_turn(position, turn) == found
    assert counted_from(found) == counted
