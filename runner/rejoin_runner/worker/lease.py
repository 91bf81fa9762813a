"""This runner's leases: the runs that it executes, and the control messages about them.

A lease renews nothing: `heartbeat` keeps the broker from redelivering the request.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rejoin_adapters.ports.run_control import ControlMessage, Interrupt, Supersede
from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.store_types import Run
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import RunId


class RunLease:
    """One execution of one run, from its delivery to its end. `run` is None until the run is claimed.

    A lease takes messages before the claim too: a message may overtake the claim's answer. It belongs to the
    event loop in which it is made.
    """

    def __init__(self, delivery: Delivery, free_slot: Callable[[], None] = lambda: None) -> None:
        self.delivery = delivery
        self.free_slot = free_slot
        """Gives the slot in the worker to another run. More than one call has no effect."""
        self.run: Run | None = None
        self.failed_attempts = delivery.delivery_count - 1
        """Those of the run, without progress, that ended by an error of their own before this execution. As
        long as they are not known, the earlier deliveries.
        """
        self.interrupted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the user has interrupted the run."""
        self._newest_attempt = 0
        self._given_up = False
        self._superseded = asyncio.Event()

    def receive(self, message: ControlMessage) -> None:
        """Take a control message about the run."""
        match message:
            case Interrupt():
                self.interrupt()
            case Supersede(attempt):
                self._newest_attempt = max(self._newest_attempt, attempt)
                self._superseded.set()

    def interrupt(self) -> None:
        """The user has interrupted the run. A second call has no effect."""
        if not self.interrupted.done():
            self.interrupted.set_result(None)

    def lose(self) -> None:
        """The run was given up: another runner takes it."""
        self._given_up = True
        self._superseded.set()

    async def wait_until_lost(self) -> None:
        """Wait for a `Supersede` that names a newer attempt than ours, or for `lose`. Always ends by raising
        `Fenced`.
        """
        # The message may be older than our claim: compare the attempts whenever the run is known.
        while not self._given_up and (self.run is None or self._newest_attempt <= self.run.attempt):
            self._superseded.clear()
            await self._superseded.wait()
        raise Fenced("another runner has the run")


current_lease: ContextVar[RunLease | None] = ContextVar("rejoin_lease", default=None)
"""The lease of the run that a task works for."""


class RunLeases:
    """All leases of one worker, by run."""

    def __init__(self) -> None:
        self._leases: dict[RunId, list[RunLease]] = {}
        """Two for one run if its request was delivered again while the first execution still ends."""

    @property
    def runs(self) -> list[RunId]:
        """The runs that this worker executes."""
        return list(self._leases)

    def receive(self, run: RunId, message: ControlMessage) -> None:
        """Pass a control message to every lease of the run, if there is one."""
        for lease in self._leases.get(run, ()):
            lease.receive(message)

    @contextmanager
    def open(self, delivery: Delivery, free_slot: Callable[[], None]) -> Iterator[RunLease]:
        """A lease that takes the run's control messages for as long as the context. It is the task's
        `current_lease`.
        """
        run, lease = delivery.request.run, RunLease(delivery, free_slot)
        current_lease.set(lease)
        leases = self._leases.setdefault(run, [])
        leases.append(lease)
        try:
            yield lease
        finally:
            leases.remove(lease)
            if not leases:
                del self._leases[run]
