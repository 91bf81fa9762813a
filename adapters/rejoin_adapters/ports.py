"""What gateway and runner ask of the outside world: a few small ports.

`RunLog`, `RunQueue`, `RunControl` and `AgentRegistry` are the broker's; `RunStore`, from `store`, is the
database's. Each has
a real adapter and an in-memory double, and one contract suite runs against both. Every method may raise
`Unavailable` while its server is away; whatever it was asked is then either done or not, never half.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.log.record import Head, Record
from rejoin_protocol.run_request import AgentEntry, RunRequest

from rejoin_adapters.records import (
    Admission,
    Admitted,
    Approval,
    ApprovalRequest,
    Claim,
    Decided,
    Decision,
    History,
    Interrupted,
    Limits,
    MessageWithNext,
    Owner,
    Regenerate,
    Run,
    RunStore,
    RunSummary,
    RunUsage,
    Submit,
    UserMessage,
    WhenBusy,
)

__all__ = (
    "Admission",
    "Admitted",
    "AgentRegistry",
    "Approval",
    "ApprovalRequest",
    "Claim",
    "ControlMessage",
    "Decided",
    "Decision",
    "Delivery",
    "History",
    "Interrupt",
    "Interrupted",
    "Limits",
    "LiveSubscription",
    "LogPage",
    "MessageWithNext",
    "Owner",
    "Regenerate",
    "Run",
    "RunControl",
    "RunLog",
    "RunQueue",
    "RunStore",
    "RunSummary",
    "RunUsage",
    "Submit",
    "Supersede",
    "UserMessage",
    "WhenBusy",
)


class LogPage(msgspec.Struct, frozen=True):
    """Part of a log: consecutive records, and whether more were stored behind them when it was read.
    `times`: when each was stored, RFC 3339; empty if that is not known.
    """

    records: Sequence[Record]
    more: bool
    times: Sequence[str] = ()


class LiveSubscription(Protocol):
    """A run's new records as they are appended, in order, without the promise that none is missing."""

    def take(self) -> list[Record]:
        """What has arrived since the last call; does not wait."""
        ...

    @property
    def slow(self) -> bool:
        """Of what is lost: whether this reader was too slow for it."""
        ...

    @property
    def lost(self) -> bool:
        """Whether something may have been missed since the last `take`: read the log before going on."""
        ...

    async def wait(self, seconds: float) -> bool:
        """Until `take` or `lost` has something to say, or about so many seconds; whether it has."""
        ...


class RunLog(Protocol):
    """The runs' logs."""

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """Store one batch behind `head.prev`; return its sequence.

        Waits and asks again for as long as the broker is away: an append is never given up half known.
        Raises `Fenced` if the log's last record is neither `head.prev` nor this very batch.
        """
        ...

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        """The records behind sequence `after`, oldest first: at most `records_max`, or as many as are got in
        one go. May miss the newest ones for a moment.
        """
        ...

    async def add_segment(self, run: RunId, records: Sequence[Record]) -> None:
        """Store a copy of consecutive records, whose appends have returned, for `read` to take instead of
        them. Waits for no answer, and says nothing if it is not stored.
        """
        ...

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        """Whether there are records behind sequence `after`. May miss the newest ones for a moment."""
        ...

    async def last(self, run: RunId) -> Record | None:
        """The newest record, for certain."""
        ...

    async def owner(self, sequence: int) -> RunId | None:
        """The run whose record has this sequence; None if no record has it (any more)."""
        ...

    async def purge(self, run: RunId) -> None:
        """Delete all of a run's records, and their copies. Whoever still appends is fenced by it."""
        ...

    def follow(self, run: RunId) -> AbstractAsyncContextManager[LiveSubscription]:
        """Watch a run. From the moment the context is entered every append is either taken or `lost`."""
        ...


class Delivery(Protocol):
    """A run request in this runner's hands, redelivered to another one unless it is kept alive."""

    @property
    def request(self) -> RunRequest:
        """What is asked."""
        ...

    @property
    def delivered(self) -> int:
        """How often the request was delivered, this time included."""
        ...

    @property
    def behind(self) -> int:
        """How many requests waited behind it when it was delivered."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """What came with it: the trace that it belongs to, if there is one."""
        ...

    @property
    def age_s(self) -> float | None:
        """How long it has waited, by the broker's clock and ours; None if it was delivered before."""
        ...

    async def in_progress(self) -> None:
        """Still at it: not to be redelivered for another ack wait."""
        ...

    async def ack(self) -> None:
        """Done: never again."""
        ...

    async def nak(self, delay_s: float = 0) -> None:
        """Give it to another runner, after a while."""
        ...


class RunQueue(Protocol):
    """The queue of run requests."""

    async def publish(self, request: RunRequest) -> None:
        """Ask for a turn of a run. A turn that is asked for already is not asked for twice."""
        ...

    def pull(
        self, agent: AgentName
    ) -> AbstractAsyncContextManager[Callable[[int], Awaitable[Sequence[Delivery]]]]:
        """A function that takes so many requests to an agent. Asked for one, it waits for it; asked for more,
        it takes what is there: perhaps fewer, perhaps none. Call it again once it has returned. What arrives
        after the context was left goes back to the queue.
        """
        ...


class Interrupt(msgspec.Struct, frozen=True, tag=True):
    """Stop the run."""


class Supersede(msgspec.Struct, frozen=True, tag=True):
    """Attempts before this one have lost the run."""

    attempt: int


type ControlMessage = Interrupt | Supersede


class RunControl(Protocol):
    """The way to the runner that holds a run, for what cannot wait until it looks into the database."""

    async def interrupt(self, run: RunId) -> None:
        """Tell it to stop the run. Whether somebody holds it is not said."""
        ...

    async def supersede(self, run: RunId, attempt: int) -> None:
        """Tell whoever holds the run by an earlier attempt than this one that it does not any more."""
        ...

    def listen(self, on_word: Callable[[RunId, ControlMessage], None]) -> AbstractAsyncContextManager[None]:
        """Be told what is said about any run, by us too, from the moment the context is entered."""
        ...


class AgentRegistry(Protocol):
    """What the runners serve."""

    async def announce(self, entry: AgentEntry) -> None:
        """Publish or refresh an agent's entry. It yields to that of a newer deploy, see `AgentEntry`."""
        ...

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """An agent's entry, if a runner has announced it within retention."""
        ...

    async def list(self) -> Sequence[AgentEntry]:
        """The entries of all of them, in no particular order."""
        ...
