"""Cursors: a place in a run's log, between two events. Opaque to clients, seekable in one step for us.

`<sequence of the message before the batch>-<index of the event in the run>`. A reader asks the log for the
first message after the sequence, finds the event in it by its index, and goes on behind it.
"""

import re

import msgspec

from rejoin_protocol.errors import Invalid

_SHAPE = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


class Cursor(msgspec.Struct, frozen=True):
    """`prev`: stream sequence of the run's message before the one that holds the event; 0 for none.
    `index`: the event's number in its run, from 0.
    """

    prev: int
    index: int

    def __str__(self) -> str:
        return f"{self.prev}-{self.index}"


def parse(text: str) -> Cursor:
    """A client's cursor. Raises `Invalid`."""
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise Invalid(f"not a cursor: {text[:64]!r}")
    return Cursor(int(match[1]), int(match[2]))
