"""Status updates: summaries of the progress of a long run, for the people who watch it."""

from collections.abc import Awaitable, Callable

import msgspec

from rejoin_runner.models.model import Model


class Summary(msgspec.Struct, frozen=True):
    """The progress of a run, shown as the part `data-summary`.

    Attributes:
        label: One line.
        details: More text, shown below the label. Default: None.
    """

    label: str
    details: str | None = None


type SummaryWriter = Callable[[str], Awaitable[Summary]]
"""Given the latest steps of the run as text, writes the summary."""


class StatusUpdates(msgspec.Struct, frozen=True, kw_only=True):
    """When the progress of a run is summarized, and who writes the summary.

    A summary is due after `every_events` events or after `every_s` seconds, whichever comes first, if
    something has happened since the last one. The tokens that a model uses for it are counted in the metrics,
    not in the run's usage.

    Attributes:
        model: The model that writes, as in `Agent.model`. Default: None, the agent's own model.
        write: A function that writes instead of a model: it gets the latest steps as text. Default: None.
        every_events: Default: None, the number of events does not matter.
        every_s: In seconds; None: the time does not matter. Default: 10.
    """

    model: Model | str | None = None
    write: SummaryWriter | None = None
    every_events: int | None = None
    every_s: float | None = 10.0
