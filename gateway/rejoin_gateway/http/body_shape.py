"""The shape of a JSON body, measured before it is decoded: how much memory and time its values will take.

A few bytes of JSON become an object of many: `{}` takes 64 bytes, a text with one emoji four times its size.
So the bytes outside of strings, the containers and the text are counted first, in one pass that skips from
quote to quote. File data, as data URLs, are one string of ASCII each: they take their size once, and do not
count. Most numbers are decoded in 50 ns, and some with a long exponent in 15 µs: those are counted, too. So
whatever is decoded holds the event loop about as long as a copy of the largest body would.
Pure; runs in a thread for large bodies.
"""

import re

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import (
    BODY_CONTAINERS_MAX,
    BODY_LONG_EXPONENTS_MAX,
    BODY_SKELETON_BYTES_MAX,
    BODY_TEXT_BYTES_MAX,
    UNCHECKED_BODY_BYTES,
)

_BACKSLASH = ord("\\")
_BETWEEN = (b":", b",")
"""The most frequent bytes between two strings. They open no container."""
_SHORT = len("1e99")
_LONG_EXPONENT = re.compile(rb"[eE][+-]?[0-9]{3}")


def needs_check(body: bytes) -> bool:
    """Whether `check_shape` must look at a body before it is decoded."""
    return len(body) > UNCHECKED_BODY_BYTES or len(_LONG_EXPONENT.findall(body)) > BODY_LONG_EXPONENTS_MAX


def check_shape(body: bytes) -> None:
    """Raises `Invalid` for a body that is small on the wire and large in memory. Whether it is JSON is left
    to the decoder.
    """
    skeleton = containers = exponents = text = position = 0
    while True:
        start = body.find(b'"', position)
        gap_end = len(body) if start < 0 else start
        skeleton += gap_end - position + 2
        _refuse_beyond(skeleton, BODY_SKELETON_BYTES_MAX, "bytes outside of strings")
        gap = body[position:gap_end]
        if gap not in _BETWEEN:
            containers += gap.count(b"{") + gap.count(b"[")
            _refuse_beyond(containers, BODY_CONTAINERS_MAX, "arrays and objects")
            exponents += len(_LONG_EXPONENT.findall(gap)) if len(gap) > _SHORT else 0
            _refuse_beyond(exponents, BODY_LONG_EXPONENTS_MAX, "numbers with an exponent of three digits")
        if start < 0:
            return
        end, escaped_quotes = _find_end(body, start + 1)
        if end < 0:
            return  # unterminated
        skeleton += escaped_quotes
        if not _is_file_data(body, start + 1, end):
            text += end - start - 1
            _refuse_beyond(text, BODY_TEXT_BYTES_MAX, "bytes of text")
        position = end + 1


def _refuse_beyond(count: int, count_max: int, what: str) -> None:
    if count > count_max:
        raise Invalid(f"a body has at most {count_max} {what}, apart from files; this one has more")


def _find_end(body: bytes, begin: int) -> tuple[int, int]:
    """The index of the quote that ends the string which begins here, -1 without one; and the number of
    escaped quotes in the string. Stops at more of these than a skeleton may have bytes.
    """
    for escaped_quotes in range(BODY_SKELETON_BYTES_MAX + 1):
        end = body.find(b'"', begin)
        if end <= 0 or body[end - 1] != _BACKSLASH:
            return end, escaped_quotes
        piece = body[begin:end]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 0:
            return end, escaped_quotes
        begin = end + 1
    raise Invalid(f"a body has at most {BODY_SKELETON_BYTES_MAX} quotes")


def _is_file_data(body: bytes, begin: int, end: int) -> bool:
    is_data_url = body.startswith(b"data:", begin)
    return is_data_url and body.find(rb"\u", begin, end) < 0 and body[begin:end].isascii()
