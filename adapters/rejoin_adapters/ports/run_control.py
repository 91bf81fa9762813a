"""Messages to the runner that executes a run, for what must not wait until it reads the database."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from rejoin_protocol.ids import RunId


class Interrupt(msgspec.Struct, frozen=True, tag=True):
    """Stop the run."""


class Supersede(msgspec.Struct, frozen=True, tag=True):
    """The attempts before `attempt` no longer own the run."""

    attempt: int


type ControlMessage = Interrupt | Supersede


class RunControl(Protocol):
    """Broadcasts control messages to all runners. Messages are not stored."""

    async def interrupt(self, run: RunId) -> None:
        """Tell the runner of this run to stop it. Does not report whether any runner has the run."""
        ...

    async def supersede(self, run: RunId, attempt: int) -> None:
        """Tell runners that hold the run by an earlier attempt than `attempt` that they have lost it."""
        ...

    def listen(
        self, on_message: Callable[[RunId, ControlMessage], None]
    ) -> AbstractAsyncContextManager[None]:
        """Call `on_message` for every message about any run, from the moment the context is entered. Messages
        of this process are included.
        """
        ...
