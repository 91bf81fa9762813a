"""Cursors: the position of an event in a run's log. Opaque to clients.

Format: `<prev>-<index>`. `prev` is the sequence of the run's record before the one that holds the event, and
`index` the number of the event in its run. A reader gets the first record after `prev` and finds the event
in it by its index: one read, without an index of events.

Why `prev` and not the record's own sequence: the writer makes the SSE frames, with their cursors, before it
appends them. At that time it knows the previous sequence, which it names as the fence, but not the next one.
"""

import re

import msgspec

from rejoin_protocol.errors import Invalid

# 19 digits at most: both numbers are 63-bit integers, and longer text is not worth parsing.
_FORMAT = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


class Cursor(msgspec.Struct, frozen=True):
    """`prev`: sequence of the run's previous record in the JetStream stream, 0 if there is none. `index`: the
    number of the event in its run, from 0.
    """

    prev: int
    index: int

    def __str__(self) -> str:
        return f"{self.prev}-{self.index}"


def parse(text: str) -> Cursor:
    """Parse a client's cursor. Raises `Invalid`."""
    match = _FORMAT.fullmatch(text)
    if match is None:
        raise Invalid(f"not a cursor: {text[:64]!r}")
    return Cursor(int(match[1]), int(match[2]))
