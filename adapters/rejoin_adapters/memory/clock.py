"""The clock of everything in memory. A test can move it."""

from contextvars import ContextVar
from datetime import UTC, datetime, timedelta


class MovableClock:
    """The time of this machine, and how far a test has moved it."""

    def __init__(self) -> None:
        self._moved = timedelta()

    def now(self) -> datetime:
        """Now, in UTC."""
        return datetime.now(UTC) + self._moved

    def advance(self, by: timedelta) -> None:
        """Move the clock. Raises `ValueError` for a negative time: the rows would come from the future."""
        if by < timedelta():
            raise ValueError("a clock is moved forward only")
        self._moved += by


CLOCK: ContextVar[MovableClock] = ContextVar("memory_clock", default=MovableClock())  # noqa: B039 - never moved
"""The clock of the current test. Nobody moves the default one."""


def now_utc() -> datetime:
    """Now, by the clock of the current test."""
    return CLOCK.get().now()
