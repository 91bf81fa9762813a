"""The position of a client in a run's stream, in each of the forms that a request may state it. Pure.

Precedence: the header `Last-Event-ID`, then `?cursor=`, then counts. A browser's EventSource repeats the
URL that it was opened with and states its position in the header, so the header is the newer one.
"""

from collections.abc import Mapping

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.log import cursor
from rejoin_protocol.log.cursor import Cursor

COUNT_DIGITS_MAX = 12


class FromStart(msgspec.Struct, frozen=True):
    """Stream from the first event."""


class AfterCursor(msgspec.Struct, frozen=True):
    """After the event with this cursor. `turn`: the client has received nothing of earlier turns."""

    cursor: Cursor
    turn: int = 0


class AfterCount(msgspec.Struct, frozen=True):
    """After the first `count` events visible to this client; negative: only the last `-count` ones. `turn`:
    those of earlier turns are not counted.
    """

    count: int
    turn: int = 0


class FromTurn(msgspec.Struct, frozen=True):
    """Stream from the first event of a turn. A decision about an approval begins a turn."""

    turn: int


type Position = FromStart | AfterCursor | AfterCount | FromTurn


def in_turn(position: Position, turn: int) -> Position:
    """The position of a client that has received nothing of the turns before `turn`."""
    match position:
        case FromStart() if turn:
            return FromTurn(turn)
        case AfterCount() | AfterCursor():
            return msgspec.structs.replace(position, turn=turn)
        case _:
            return position


def counted_from(position: Position) -> int:
    """The turn from which on a client in this position counts events."""
    return 0 if isinstance(position, FromStart) else position.turn


def parse_position(headers: Mapping[str, str], query: Mapping[str, str]) -> Position:
    """The position of a GET request. Raises `Invalid`."""
    cursor_text = headers.get("Last-Event-ID") or query.get("cursor")
    if cursor_text:
        return AfterCursor(cursor.parse(cursor_text))
    start_index = headers.get("x-stream-start-index") or query.get("startIndex")
    if start_index:
        return AfterCount(_parse_number(start_index, "startIndex"))
    last_index = query.get("afterIdx")
    if last_index:
        return AfterCount(_parse_number(last_index, "afterIdx") + 1)
    return FromStart()


def _parse_number(text: str, name: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= COUNT_DIGITS_MAX):
        raise Invalid(f"{name} is not a whole number: {text[:64]!r}")
    return int(text)
