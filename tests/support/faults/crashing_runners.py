"""Runners that crash at a chosen point: at an append to their log, or before an acknowledgement.

The crash is an exception that nothing catches, at the one place where a runner writes to the log or
acknowledges a request. The next attempt finds what a killed process would have left.
`tests/fault/fleet/test_processes.py` kills real processes.
"""

from typing import Any

import msgspec
import pytest

from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamDelivery
from rejoin_adapters.ports.run_log import RunLog
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head


class RunnerCrashed(Exception):
    """The runner process has ended."""


class CrashPoint(msgspec.Struct):
    """When the runners crash: once, at operation number `at`, or where `word` is written for the first time.
    `stored` says whether that operation still takes effect; `count` is the number of operations so far.
    """

    at: int = -1
    word: bytes | None = None
    stored: bool = False
    count: int = 0

    def next(self, at: int) -> None:
        """Reset the count, and crash at operation number `at`."""
        self.count, self.at = 0, at

    def due(self, payload: bytes = b"") -> bool:
        """Count one operation. Returns whether to crash at it."""
        self.count += 1
        if self.word is not None and self.word in payload:
            self.word = None
            return True
        return self.count - 1 == self.at


class CrashingRunLog:
    """A log whose writer crashes."""

    def __init__(self, log: RunLog, crash: CrashPoint) -> None:
        self._log = log
        self._death = crash

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        dies = self._death.due(payload)
        if dies and not self._death.stored:
            raise RunnerCrashed
        seq = await self._log.append(run, head, payload)
        if dies:
            raise RunnerCrashed
        return seq


def crash_at_append(
    monkeypatch: pytest.MonkeyPatch, *, word: bytes | None = None, stored: bool = False
) -> CrashPoint:
    """Let the runners that are started from now on crash at an append."""
    crash = CrashPoint(word=word, stored=stored)
    monkeypatch.setattr(
        "rejoin_runner.app.JetStreamRunLog", lambda *brokers: CrashingRunLog(JetStreamRunLog(*brokers), crash)
    )
    return crash


def crash_before_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> CrashPoint:
    """Let all runners crash before an acknowledgement: their work is done, and the broker does not know."""
    acknowledge, crash = JetStreamDelivery.ack, CrashPoint()

    async def ack(self: JetStreamDelivery) -> None:
        if crash.due():
            raise RunnerCrashed
        await acknowledge(self)

    monkeypatch.setattr(JetStreamDelivery, "ack", ack)
    return crash
