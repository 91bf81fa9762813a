"""The progress lines of `rejoin dev`, on stderr: what it does, and what it still waits for."""

import asyncio
import sys
import time
from collections.abc import Callable

SILENCE_MAX_S = 3.0
"""After this time without a line, the next one says what the start waits for."""


class ProgressLines:
    """Writes one line for each step of the start, with the seconds since the command began.

    Child processes log to the same stderr. A line and its end are therefore one write: another process cannot
    write between them.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._started_at_s = self._written_at_s = clock_s()
        self.is_complete = False
        self._describe: Callable[[], str] = lambda: "the start"

    @property
    def awaited(self) -> str:
        """What the start waits for now."""
        return self._describe()

    def __call__(self, text: str) -> None:
        """Write the line of a step."""
        self.wait_for(lambda: text)
        self._write(text)

    def wait_for(self, describe: Callable[[], str]) -> None:
        """What the start waits for from now on, if it takes long."""
        self._describe = describe

    async def remind(self) -> None:
        """Say what the start waits for whenever it has been silent for long, until it is complete."""
        while True:
            await asyncio.sleep(SILENCE_MAX_S / 10)
            if self.is_complete:
                return
            if self._clock_s() - self._written_at_s >= SILENCE_MAX_S:
                self._write(f"still waiting: {self.awaited}")

    def _write(self, text: str) -> None:
        self._written_at_s = self._clock_s()
        sys.stderr.write(f"  {self._written_at_s - self._started_at_s:5.1f} s  {text}\n")
        sys.stderr.flush()
