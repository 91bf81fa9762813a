"""JSON as it comes from outside, where two things differ from what a strict decoder takes. Pure.

JavaScript's strings are UTF-16 and may hold half a surrogate pair: `"look 😀".slice(0, 6)` ends with half an
emoji, and `JSON.stringify` writes it as the escape of a lone surrogate. UTF-8 has no such character, so it is
taken as U+FFFD, as `TextEncoder` and `toWellFormed` take it. And JavaScript has one kind of number: `1.0` is
the integer 1.

Both are mended only if a strict decoder has refused the input: other input costs nothing.
"""

import re
from collections.abc import Callable
from typing import Any

import msgspec

HALVES_MAX = 100_000
"""Halves that are mended in one text. Each costs time, and a text with more of them is an attack."""
BOM = b"\xef\xbb\xbf"
_HEX = rb"[0-9a-fA-F]{2}"
_LOW = rb"\\u[dD][c-fC-F]" + _HEX
_HALF = re.compile(
    rb"\\u[dD](?:[89abAB]" + _HEX + rb"(?!" + _LOW + rb")"
    # A low half, unless the escape before it is a high one: the whole pair is twelve characters long.
    rb"|[c-fC-F]" + _HEX + rb"(?<!\\u[dD][89abAB]" + _HEX + rb"\\u....))"
)


def mend(text: bytes) -> bytes:
    """JSON text with U+FFFD for each escaped half of a surrogate pair, and without a byte order mark.

    Returns the same object if there is nothing to mend.
    """
    mended = text.removeprefix(BOM)
    if b"\\u" not in mended or b"\0" in mended:  # NUL is no character of JSON text: here it is a placeholder
        return mended
    # Without escaped backslashes, every backslash begins an escape.
    halves = mended.replace(rb"\\", b"\0\0")
    replaced, count = _HALF.subn(rb"\\ufffd", halves, HALVES_MAX + 1)
    return replaced.replace(b"\0\0", rb"\\") if 0 < count <= HALVES_MAX else mended


def mend_value(value: Any) -> Any:
    """A decoded value, whose strings may hold halves of surrogate pairs, with U+FFFD for each half."""
    match value:
        case str():
            return well_formed(value)
        case list() | tuple():
            return [mend_value(item) for item in value]
        case dict():
            return {mend_value(key): mend_value(item) for key, item in value.items()}
        case _:
            return value


def well_formed(text: str) -> str:
    """The text without halves of surrogate pairs, which UTF-8 cannot hold: two halves that belong together
    are one character; a half alone is U+FFFD. Returns the same object if there is nothing to mend.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def convert[T](value: Any, kind: type[T], *, dec_hook: Callable[[type[Any], Any], Any] | None = None) -> T:
    """Like `msgspec.convert`, but accepts `1.0` as the integer 1. Raises `msgspec.ValidationError`."""
    try:
        return msgspec.convert(value, kind, dec_hook=dec_hook)
    except msgspec.ValidationError as fault:
        if not is_about_float(fault):
            raise
    return msgspec.convert(_with_integers(value), kind, dec_hook=dec_hook)


def is_about_float(fault: msgspec.ValidationError) -> bool:
    """Whether a value does not fit because it is written with a decimal point or an exponent."""
    return "got `float`" in str(fault)


def _with_integers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_integers(item) for item in value]
        case dict():
            return {key: _with_integers(item) for key, item in value.items()}
        case _:
            return value
