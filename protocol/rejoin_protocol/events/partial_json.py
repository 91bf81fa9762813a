"""Parses incomplete JSON as the client does: the arguments of a tool call while they stream.

Follows the client's `parsePartialJson`: parse the text; if that fails, cut it after the last valid position,
close open strings, arrays and objects, and parse again. Values are as in JavaScript: integers beyond 2**53
lose their last digits, a number beyond the range of doubles is `null`, and the last of repeated keys wins.
"""

import json
import math
import re
from collections.abc import Mapping
from enum import Enum, auto
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from msgspec import UNSET, UnsetType

State = Literal["successful-parse", "repaired-parse", "failed-parse"]


def parse(text: str) -> tuple[State, Any | UnsetType]:
    """Parse the complete or incomplete `text`. The value is `UNSET` if there is none yet."""
    if (value := _read(text)) is not UNSET:
        return "successful-parse", value
    if (value := _read(complete(text))) is not UNSET:
        return "repaired-parse", value
    return "failed-parse", UNSET


def names_prototype(value: Any) -> bool:
    """Whether a key at any depth names a JavaScript prototype. The client refuses such JSON."""
    pending = [value]
    while pending:
        match pending.pop():
            case {"__proto__": _} | {"constructor": {"prototype": _}}:
                return True
            case dict() as node:
                pending.extend(node.values())
            case list() as node:
                pending.extend(node)
    return False


# Complete JSON, parsed as `JSON.parse` does.

_EXACT_MAX = 2**53
_EXACT_DIGITS = len(str(-_EXACT_MAX))


def _integer(digits: str) -> float | None:
    if len(digits) <= _EXACT_DIGITS and abs(value := int(digits)) <= _EXACT_MAX:
        return value
    return _number(digits)


def _number(digits: str) -> float | None:
    value = float(digits)
    return value if math.isfinite(value) else None


def _no_constant(name: str) -> float:
    raise ValueError(name)


_decoder = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_no_constant)


def _read(text: str) -> Any | UnsetType:
    try:
        value = _decoder.decode(text)
    except (ValueError, RecursionError):
        return UNSET
    return UNSET if names_prototype(value) else value


# The repair: a pushdown automaton in one pass over the text. A move says whether the text is valid up to and
# including the character, and what replaces the top of the stack. A character without a move is skipped.


class _In(Enum):
    ROOT = auto()
    END = auto()
    OBJECT = auto()
    OBJECT_COMMA = auto()
    KEY = auto()
    COLON = auto()
    MEMBER = auto()
    OBJECT_NEXT = auto()
    ARRAY = auto()
    ARRAY_COMMA = auto()
    ARRAY_NEXT = auto()
    STRING = auto()
    ESCAPE = auto()
    HEX_1 = auto()
    HEX_2 = auto()
    HEX_3 = auto()
    HEX_4 = auto()
    NUMBER = auto()
    LITERAL = auto()


class _Move(NamedTuple):
    is_valid: bool
    top: tuple[_In, ...]


type _Moves = Mapping[str, _Move]

_DIGITS = "0123456789"
_HEX_DIGITS = "0123456789abcdefABCDEF"
_LITERALS = ("true", "false", "null")
_CLOSE = _Move(True, ())


def _value(then: _In) -> dict[str, _Move]:
    return {
        '"': _Move(True, (then, _In.STRING)),
        "{": _Move(True, (then, _In.OBJECT)),
        "[": _Move(True, (then, _In.ARRAY)),
        "-": _Move(False, (then, _In.NUMBER)),
        **dict.fromkeys(_DIGITS, _Move(True, (then, _In.NUMBER))),
        **dict.fromkeys("tfn", _Move(True, (then, _In.LITERAL))),
    }


_MOVES: Mapping[_In, _Moves] = MappingProxyType(
    {
        _In.ROOT: _value(_In.END),
        _In.END: {},
        _In.OBJECT: {'"': _Move(False, (_In.KEY,)), "}": _CLOSE},
        _In.OBJECT_COMMA: {'"': _Move(False, (_In.KEY,))},
        _In.KEY: {'"': _Move(False, (_In.COLON,))},
        _In.COLON: {":": _Move(False, (_In.MEMBER,))},
        _In.MEMBER: _value(_In.OBJECT_NEXT),
        _In.OBJECT_NEXT: {",": _Move(False, (_In.OBJECT_COMMA,)), "}": _CLOSE},
        _In.ARRAY: {**_value(_In.ARRAY_NEXT), "]": _CLOSE},
        _In.ARRAY_COMMA: _value(_In.ARRAY_NEXT),
        _In.ARRAY_NEXT: {",": _Move(False, (_In.ARRAY_COMMA,)), "]": _CLOSE},
        _In.STRING: {'"': _CLOSE, "\\": _Move(False, (_In.STRING, _In.ESCAPE))},
        _In.ESCAPE: {"u": _Move(False, (_In.HEX_1,))},
        _In.HEX_1: dict.fromkeys(_HEX_DIGITS, _Move(False, (_In.HEX_2,))),
        _In.HEX_2: dict.fromkeys(_HEX_DIGITS, _Move(False, (_In.HEX_3,))),
        _In.HEX_3: dict.fromkeys(_HEX_DIGITS, _Move(False, (_In.HEX_4,))),
        _In.HEX_4: dict.fromkeys(_HEX_DIGITS, _CLOSE),
        _In.NUMBER: {
            **dict.fromkeys(_DIGITS, _Move(True, (_In.NUMBER,))),
            **dict.fromkeys("eE-.", _Move(False, (_In.NUMBER,))),
        },
        _In.LITERAL: {},
    }
)
_OTHERWISE: Mapping[_In, _Move] = MappingProxyType(
    {
        _In.STRING: _Move(True, (_In.STRING,)),
        _In.ESCAPE: _CLOSE,
        _In.ARRAY_NEXT: _Move(True, (_In.ARRAY_NEXT,)),
    }
)
_CLOSERS: Mapping[_In, str] = MappingProxyType(
    {
        _In.STRING: '"',
        **dict.fromkeys((_In.ARRAY, _In.ARRAY_COMMA, _In.ARRAY_NEXT), "]"),
        **dict.fromkeys(
            (_In.OBJECT, _In.OBJECT_COMMA, _In.KEY, _In.COLON, _In.MEMBER, _In.OBJECT_NEXT),
            "}",
        ),
    }
)
_PLAIN = re.compile(r'[^"\\]+')


class _Repair:
    """The state of the pass: the stack, the end of the valid text, and the start of the last literal."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.stack = [_In.ROOT]
        self.valid_end = 0
        self.literal = 0

    def run(self) -> str:
        at = 0
        while at < len(self.text):
            top = self.stack[-1]
            if top is _In.STRING and (plain := _PLAIN.match(self.text, at)):
                self.valid_end = at = plain.end()  # skips most of a long string at once
                continue
            if top is _In.LITERAL:
                self._literal(at)
            elif (move := _MOVES[top].get(self.text[at]) or _OTHERWISE.get(top)) is not None:
                self._take(move, at)
            elif top is _In.NUMBER:
                self._end_scalar(at)
            at += 1
        return self.text[: self.valid_end] + "".join(self._closer(place) for place in reversed(self.stack))

    def _take(self, move: _Move, at: int) -> None:
        self.stack[-1:] = move.top
        if move.is_valid:
            self.valid_end = at + 1
        if move.top[-1:] == (_In.LITERAL,):
            self.literal = at

    def _literal(self, at: int) -> None:
        so_far = self.text[self.literal : at + 1]
        if any(literal.startswith(so_far) for literal in _LITERALS):
            self.valid_end = at + 1
        else:
            self._end_scalar(at)

    def _end_scalar(self, at: int) -> None:
        # A number or a literal ends at the next character, which belongs to the enclosing value.
        self.stack.pop()
        move = _MOVES[self.stack[-1]].get(self.text[at])
        if move is not None:
            self._take(move, at)

    def _closer(self, place: _In) -> str:
        if place is not _In.LITERAL:
            return _CLOSERS.get(place, "")
        so_far = self.text[self.literal :]
        return next(literal[len(so_far) :] for literal in _LITERALS if literal.startswith(so_far))


def complete(text: str) -> str:
    """The text up to its last valid position, with what is open closed. Not JSON if the text is none."""
    return _Repair(text).run()
