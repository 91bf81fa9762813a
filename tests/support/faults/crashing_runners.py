"""Runners that crash at a chosen point: at an append to their log, or before an acknowledgement.

The crash is an exception that nothing catches, at the one place where a runner writes to the log or
acknowledges a request. The next attempt finds what a killed process would have left.
`tests/fault/fleet/test_processes.py` kills real processes.
"""

import pytest

from rejoin.testing.crash import CrashingRunLog, CrashPoint, RunnerCrashed
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamDelivery


class CountedCrashPoint(CrashPoint):
    """Crashes also at operation number `at`. `count` is the number of operations so far."""

    at: int = -1
    count: int = 0

    def next(self, at: int) -> None:
        """Reset the count, and crash at operation number `at`."""
        self.count, self.at = 0, at

    def is_due(self, payload: bytes = b"") -> bool:
        """Count one operation. Returns whether to crash at it."""
        self.count += 1
        return super().is_due(payload) or self.count - 1 == self.at


def crash_at_append(
    monkeypatch: pytest.MonkeyPatch, *, word: bytes | None = None, stored: bool = False
) -> CountedCrashPoint:
    """Let the runners that are started from now on crash at an append."""
    crash = CountedCrashPoint(event=word, stored=stored)
    monkeypatch.setattr(
        "rejoin_runner.app.JetStreamRunLog", lambda *brokers: CrashingRunLog(JetStreamRunLog(*brokers), crash)
    )
    return crash


def crash_before_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> CountedCrashPoint:
    """Let all runners crash before an acknowledgement: their work is done, and the broker does not know."""
    acknowledge, crash = JetStreamDelivery.ack, CountedCrashPoint()

    async def ack(self: JetStreamDelivery) -> None:
        if crash.is_due():
            raise RunnerCrashed
        await acknowledge(self)

    monkeypatch.setattr(JetStreamDelivery, "ack", ack)
    return crash
