"""The progress lines of `rejoin dev`, on stderr."""

import sys
import time


class ProgressLines:
    """Writes one line for each step of the start, with the seconds since the command began.

    Child processes log to the same stderr. A line and its end are therefore one write: another process cannot
    write between them.
    """

    def __init__(self) -> None:
        self._started_at = time.monotonic()

    def __call__(self, text: str) -> None:
        """Write one line."""
        sys.stderr.write(f"  {time.monotonic() - self._started_at:5.1f} s  {text}\n")
        sys.stderr.flush()
