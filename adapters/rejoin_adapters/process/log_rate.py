"""Bounds how many log lines one source causes: an attacker must fill no disk and hide no other line.

A source is the principal of a request, its peer if it has none, or a run; other lines have the source "".
Each source may write `LOG_LINES_PER_S_MAX` lines of one event, after a pause `LOG_LINES_BURST_MAX` at once.
Further lines are counted, and the next one that is written has their number as `suppressed`. The state is
bounded.
"""

import time
from collections import OrderedDict
from collections.abc import Callable

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from rejoin_protocol.limits import LOG_LINES_BURST_MAX, LOG_LINES_PER_S_MAX

SOURCES_MAX = 4_096
SOURCE_CHARS_MAX = 256


class _Bucket(msgspec.Struct):
    """Lines that may be written at once, when that was true, and how many were not written since the last."""

    tokens: float
    at_s: float
    suppressed: int = 0


class LogRate:
    """A log processor: raises `structlog.DropEvent` for a line that is not written."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._buckets: OrderedDict[tuple[str, str], _Bucket] = OrderedDict()

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """The event, with `suppressed` if lines like it were not written."""
        del logger, method
        now_s = self._clock_s()
        source = event.get("principal") or event.get("peer") or event.get("run") or ""
        key = str(event.get("event"))[:SOURCE_CHARS_MAX], str(source)[:SOURCE_CHARS_MAX]
        bucket = self._buckets.setdefault(key, _Bucket(LOG_LINES_BURST_MAX, now_s))
        self._buckets.move_to_end(key)
        if len(self._buckets) > SOURCES_MAX:
            self._buckets.popitem(last=False)
        regained = (now_s - bucket.at_s) * LOG_LINES_PER_S_MAX
        bucket.tokens = min(LOG_LINES_BURST_MAX, bucket.tokens + regained)
        bucket.at_s = now_s
        if bucket.tokens < 1:
            bucket.suppressed += 1
            raise structlog.DropEvent
        bucket.tokens -= 1
        if bucket.suppressed:
            event["suppressed"], bucket.suppressed = bucket.suppressed, 0
        return event
