"""How commands print what clients have written, and times that operators type. Pure.

Texts of clients must neither move the terminal's cursor nor begin a line.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

TEXT_CHARS_MAX = 120
_AGE = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def printable(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """A text on one line: what is not printable is escaped, and the end of a long text is cut."""
    cut = text if len(text) <= chars_max else f"{text[: chars_max - 1]}…"
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut)


def moment(time: datetime) -> str:
    """A time in UTC, to the second."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines in which the columns stand below their names."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in [head, *rows]]


def parse_since(text: str, now: datetime) -> datetime:
    """A time before now (`90s`, `30m`, `12h`, `7d`) or a time by ISO 8601, in UTC if it names no zone.

    Raises `ValueError`.
    """
    if age := _AGE.fullmatch(text):
        return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither an age (30m, 12h, 7d) nor a time (2026-01-31T12:00)") from None
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
