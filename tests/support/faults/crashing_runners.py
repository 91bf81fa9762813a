"""Runners that die where a test says: at an append to their log, or before an acknowledgement.

The death is an exception that nobody catches, at the one place where a runner touches the log or a request;
what the next attempt finds is exactly what a killed process would have left. Processes are killed in
`tests/fault/fleet/test_processes.py`.
"""

from typing import Any

import msgspec
import pytest
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.jetstream.run_queue import JetStreamDelivery
from rejoin_adapters.ports.run_log import RunLog
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head


class Died(Exception):
    """The process is gone."""


class Death(msgspec.Struct):
    """When the runners die: once, at number `at` of what is counted, or where `word` is written for the first
    time. `stored` says whether that is done before they die; `count`, how often it was done.
    """

    at: int = -1
    word: bytes | None = None
    stored: bool = False
    count: int = 0

    def next(self, at: int) -> None:
        """Count anew, and let them die at this one."""
        self.count, self.at = 0, at

    def due(self, payload: bytes = b"") -> bool:
        """Whether it is now. Counts one more."""
        self.count += 1
        if self.word is not None and self.word in payload:
            self.word = None
            return True
        return self.count - 1 == self.at


class Mortal:
    """A log whose writer dies."""

    def __init__(self, log: RunLog, death: Death) -> None:
        self._log = log
        self._death = death

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        dies = self._death.due(payload)
        if dies and not self._death.stored:
            raise Died
        seq = await self._log.append(run, head, payload)
        if dies:
            raise Died
        return seq


def at_append(monkeypatch: pytest.MonkeyPatch, *, word: bytes | None = None, stored: bool = False) -> Death:
    """The death of the runners that are started from now on."""
    death = Death(word=word, stored=stored)
    monkeypatch.setattr(
        "rejoin_runner.app.JetStreamRunLog", lambda *brokers: Mortal(JetStreamRunLog(*brokers), death)
    )
    return death


def before_acknowledgement(monkeypatch: pytest.MonkeyPatch) -> Death:
    """The death of all runners: what they did is done, and nobody knows it."""
    acknowledge, death = JetStreamDelivery.ack, Death()

    async def ack(self: JetStreamDelivery) -> None:
        if death.due():
            raise Died
        await acknowledge(self)

    monkeypatch.setattr(JetStreamDelivery, "ack", ack)
    return death
