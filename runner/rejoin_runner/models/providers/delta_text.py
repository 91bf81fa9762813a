"""The text of deltas in a form that the log can hold, and the arguments of a complete call. Pure.

A provider may split a character outside of the Basic Multilingual Plane over two deltas: JSON writes it as
two surrogates. A lone one becomes U+FFFD.
"""

import json
from typing import Any

import msgspec

from rejoin_protocol.events.partial_json import names_prototype

_HIGH_FIRST, _HIGH_LAST = "\ud800", "\udbff"


class DeltaText:
    """Joins the halves of a character that arrive in two deltas of one part."""

    def __init__(self) -> None:
        self._half = ""

    def add(self, text: str) -> str:
        """The delta's text, with the half before it and without one at its end."""
        if self._half:
            text, self._half = self._half + text, ""
        if text and _HIGH_FIRST <= text[-1] <= _HIGH_LAST:
            text, self._half = text[:-1], text[-1]
        return make_storable(text)

    def end(self) -> str:
        """U+FFFD for a half whose other half never came, else nothing."""
        text, self._half = make_storable(self._half), ""
        return text


def make_storable(text: str) -> str:
    """Join surrogates that are neighbours, and replace lone ones, which UTF-8 cannot hold, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def parse_arguments(args: object) -> Any:
    """The parsed arguments, or the raw text if they are not an object that clients accept."""
    if not isinstance(args, str):
        return args or {}
    if not args.strip():
        return {}
    args = make_storable(args)
    try:
        value = msgspec.json.decode(args)
    except msgspec.DecodeError:
        value = _parse_leniently(args)
    return value if isinstance(value, dict) and not names_prototype(value) else args


def _parse_leniently(args: str) -> Any:
    """The arguments if half a character in an escape is all that is wrong with them; else None."""
    try:
        value = json.loads(args, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return msgspec.json.decode(make_storable(json.dumps(value, ensure_ascii=False)))


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
