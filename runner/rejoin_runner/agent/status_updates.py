"""When a run says how far it is, and who writes that."""

from collections.abc import Awaitable, Callable

import msgspec

from rejoin_runner.models.model import (
    Model,
)


class Summary(msgspec.Struct, frozen=True):
    """How far a run is: `label` is a line, `details` what stands below it."""

    label: str
    details: str | None = None


type SummaryWriter = Callable[[str], Awaitable[Summary]]


class StatusUpdates(msgspec.Struct, frozen=True, kw_only=True):
    """When to say how far a run is, and who writes it: `model` (None: the agent's own), or `write`, which is
    given what was done last, as text. A summary is due after `every_events` events or after `every_s`,
    whichever comes first, if something has happened since the last one. A model's tokens for it are in the
    metrics, and not in the run's usage.
    """

    model: Model | str | None = None
    write: SummaryWriter | None = None
    every_events: int | None = None
    every_s: float | None = 10.0
