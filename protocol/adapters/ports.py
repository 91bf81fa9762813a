"""What gateway and runner ask of the outside world: four small ports.

`Log`, `Requests` and `Agents` are the broker's, `Store` is the database's. Each has a real adapter and an
in-memory double, and one contract suite runs against both. Every method may raise `Unavailable` while its
server is away; whatever it was asked is then either done or not, never half.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from protocol.commands import AgentEntry, RunRequest
from protocol.fold import UIMessage
from protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId, TenantId
from protocol.lifecycle import State
from protocol.log import Head, Record


class Page(msgspec.Struct, frozen=True):
    """Part of a log: consecutive records, and whether more were stored behind them when it was read."""

    records: Sequence[Record]
    more: bool


class Follow(Protocol):
    """A run's new records as they are appended, in order, without the promise that none is missing."""

    def take(self) -> list[Record]:
        """What has arrived since the last call; does not wait."""
        ...

    @property
    def lost(self) -> bool:
        """Whether something may have been missed since the last `take`: read the log before going on."""
        ...

    async def wait(self) -> None:
        """Until `take` or `lost` has something to say."""
        ...


class Log(Protocol):
    """The runs' logs."""

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """Store one batch behind `head.prev`; return its sequence.

        Waits and asks again for as long as the broker is away: an append is never given up half known.
        Raises `Fenced` if the log's last record is neither `head.prev` nor this very batch.
        """
        ...

    async def read(self, run: RunId, *, after: int, records_max: int = 256) -> Page:
        """The records behind sequence `after`, oldest first. May miss the newest ones for a moment."""
        ...

    async def last(self, run: RunId) -> Record | None:
        """The newest record, for certain."""
        ...

    async def owner(self, sequence: int) -> RunId | None:
        """The run whose record has this sequence; None if no record has it (any more)."""
        ...

    def follow(self, run: RunId) -> AbstractAsyncContextManager[Follow]:
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

    async def in_progress(self) -> None:
        """Still at it: not to be redelivered for another ack wait."""
        ...

    async def ack(self) -> None:
        """Done: never again."""
        ...

    async def nak(self, delay_s: float = 0) -> None:
        """Give it to another runner, after a while."""
        ...


class Requests(Protocol):
    """The queue of run requests."""

    async def publish(self, request: RunRequest) -> None:
        """Ask for a turn of a run. A turn that is asked for already is not asked for twice."""
        ...

    def pull(self, agent: AgentName) -> AbstractAsyncContextManager[Callable[[], Awaitable[Delivery]]]:
        """A function that waits for the next request to an agent. Call it again once it has returned.
        What arrives after the context was left goes back to the queue.
        """
        ...


class Interrupt(msgspec.Struct, frozen=True, tag=True):
    """Stop the run."""


class Supersede(msgspec.Struct, frozen=True, tag=True):
    """Attempts before this one have lost the run."""

    attempt: int


type Word = Interrupt | Supersede


class Control(Protocol):
    """The way to the runner that holds a run, for what cannot wait until it looks into the database."""

    async def interrupt(self, run: RunId) -> bool:
        """Tell it to stop the run. False if no runner holds it at the moment: the next one will read it."""
        ...

    async def supersede(self, run: RunId, attempt: int) -> None:
        """Tell whoever holds the run by an earlier attempt than this one that it does not any more."""
        ...

    def listen(self, run: RunId, on_word: Callable[[Word], None]) -> AbstractAsyncContextManager[None]:
        """Be the one that is told. Whoever is told from the moment the context is entered reaches us."""
        ...


class Agents(Protocol):
    """What the runners serve."""

    async def announce(self, entry: AgentEntry) -> None:
        """Publish or refresh an agent's entry."""
        ...

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """An agent's entry, if a runner has announced it within retention."""
        ...


# ------------------------------------------------------------------------------------------------ the store


class Turn(msgspec.Struct, frozen=True):
    """A user's message as it is stored. `digest` tells a repeated request from another one."""

    message: UIMessage
    digest: bytes


class Submit(msgspec.Struct, frozen=True):
    """Answer a new message. `edit`: if the id is stored with other content, replace it and all behind it."""

    turn: Turn
    edit: bool = False
    imports: Sequence[UIMessage] = ()
    """Earlier turns, stored only if the session is new."""


class Regenerate(msgspec.Struct, frozen=True):
    """Answer again: drop message `target` if it is the assistant's, and everything behind it. None is the
    last answer.
    """

    target: MessageId | None = None


class WhenBusy(StrEnum):
    """What becomes of a request for a run while another run of its session is queued or running."""

    ENQUEUE = "enqueue"  # it waits for its turn
    INTERRUPT = "interrupt"  # so it does, and the run whose turn it is now is interrupted
    REJECT = "reject"


class Admission(msgspec.Struct, frozen=True):
    """A request to make a run. `run` and `answer` are fresh ids, used only if a run is made. `key`: the
    caller's name for the request, within the session; repeated with it, it is the same request or a conflict.
    """

    tenant: TenantId
    session: SessionId
    agent: AgentName
    run: RunId
    answer: MessageId
    ask: Submit | Regenerate
    when_busy: WhenBusy = WhenBusy.ENQUEUE
    key: str | None = None


class Run(msgspec.Struct, frozen=True):
    """A run as it is stored. `ready`: it is its turn in the session. `answer`: its assistant message.
    `interrupted`: it is to be ended, by the runner that has it or gets it.
    """

    id: RunId
    tenant: TenantId
    session: SessionId
    agent: AgentName
    answer: MessageId
    state: State
    ready: bool
    turn: int
    attempt: int
    error: str | None = None
    interrupted: bool = False

    @property
    def request(self) -> RunRequest:
        """The request for what is to be done next."""
        return RunRequest(self.agent, self.id, self.turn)


class Listed(msgspec.Struct, frozen=True):
    """A run as operators see it: with its times, and the runner that had it last."""

    run: Run
    created_at: datetime
    updated_at: datetime
    runner: str | None = None


class Admitted(msgspec.Struct, frozen=True):
    """`created` is false if an earlier admission of the same request had made the run. `interrupted` is the
    run that this one has interrupted, whose runner is to be told if there is one.
    """

    run: Run
    created: bool
    interrupted: Run | None = None


class Interrupted(msgspec.Struct, frozen=True):
    """The run as it is now, and whether it is to be ended. If it is running, its runner is to be told; if it
    is queued and ready, its request is to be published. None: nothing in the session could be interrupted.
    """

    run: Run | None
    interrupted: bool


class Question(msgspec.Struct, frozen=True):
    """A call that waits for a person. `input` is frozen here: what was shown is what will be run.
    After `expires_at` nobody can decide it any more.
    """

    id: ApprovalId
    call: CallId
    tool: str
    input: Any
    expires_at: datetime | None = None


class Decision(msgspec.Struct, frozen=True):
    """What a person said."""

    approval: ApprovalId
    approved: bool
    reason: str | None = None


class Decided(msgspec.Struct, frozen=True):
    """The run after decisions were stored, and the turn in which it goes on, or went on, with them."""

    run: Run
    turn: int


class Approval(msgspec.Struct, frozen=True):
    """A question and, once decided, its answer. `turn`: the one in which it was asked. `expired`: nobody has
    decided it in time, which is a denial. No decision: it is open, or its run was interrupted or is over.
    """

    question: Question
    decision: Decision | None
    turn: int
    expired: bool = False


class Claim(msgspec.Struct, frozen=True):
    """Everything a runner needs to go on with a run. `history`: the turns before its answer, oldest first.
    `answer`: the assistant message as stored at the last suspension.
    """

    run: Run
    history: Sequence[UIMessage]
    answer: UIMessage | None
    approvals: Sequence[Approval]


class History(msgspec.Struct, frozen=True):
    """A session's messages, without that of a busy run, which its stream rebuilds whole."""

    agent: AgentName
    messages: Sequence[UIMessage]
    busy: Run | None
    created_at: datetime
    updated_at: datetime


class Store(Protocol):
    """Sessions, messages, runs and approvals. Each method is one transaction."""

    async def admit(self, admission: Admission) -> Admitted:
        """Store the turn and make the run that answers it; it is `ready` unless the session is busy.

        The same message id with the same digest attaches to the run it made, and so does the same key with
        the same ask: that stores, drops and interrupts nothing. Raises `Conflict` (the id is taken by other
        content and `edit` is off; the key by another ask; the session is busy and `when_busy` is to reject,
        or to enqueue an edit or a regeneration) or `NotFound` (nothing to regenerate), and then has stored
        nothing. An edit or regeneration that interrupts drops the messages at once: a busy run that has lost
        its answer with them is interrupted, and stores none any more.
        """
        ...

    async def interrupt(self, tenant: TenantId, session: SessionId, run: RunId | None = None) -> Interrupted:
        """End a run of the session: the one named, else the ready and busy one, else the newest suspended.

        Its open questions are cancelled. What is queued or running is flagged for the runner that has it or
        gets it; what is suspended is queued for the turn in which a runner ends it. Doing it again is the
        same answer, until the run is over: then nothing is changed. Raises `NotFound`.
        """
        ...

    async def run(self, tenant: TenantId, run: RunId) -> Run | None:
        """One run of the tenant's."""
        ...

    async def current(self, tenant: TenantId, session: SessionId) -> Run | None:
        """The session's ready and busy run, else the newest one."""
        ...

    async def history(self, tenant: TenantId, session: SessionId) -> History | None:
        """The session, or None if there is none."""
        ...

    async def claim(self, request: RunRequest, runner: str) -> Claim | None:
        """Take a run, or take it over: its attempt grows by one, and no earlier attempt can write any more.

        None if the request is stale: that turn is over, or the run is.
        """
        ...

    async def ask(self, run: RunId, attempt: int, questions: Sequence[Question]) -> None:
        """Store questions before they are shown. Asking again changes nothing. Those of an interrupted run
        are cancelled at once. Raises `Fenced`.
        """
        ...

    async def decide(self, tenant: TenantId, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """Store decisions of one run, all or none. The last open one queues a suspended run's next turn.

        The same decision again changes nothing. Raises `Conflict` for another one and for what is expired or
        cancelled, `NotFound`, and `Invalid` if the decisions are not all of one run.
        """
        ...

    async def suspend(self, run: RunId, attempt: int, answer: UIMessage) -> Sequence[RunRequest]:
        """Store the answer so far and let go of the run: it is suspended and the session's next run
        promoted, or, if everything was decided meanwhile or the run is interrupted, it goes on at once in
        its next turn, still running. Returns the request of whichever it is, which the caller publishes.
        Raises `Fenced`.
        """
        ...

    async def end(
        self, run: RunId, attempt: int, state: State, answer: UIMessage | None, error: str | None
    ) -> RunRequest | None:
        """Store the answer and the terminal state; promote the session's next run and return its request.

        Open questions are cancelled. Doing it twice with the same attempt is doing it once. Raises `Fenced`.
        """
        ...

    async def pending(self, tenant: TenantId, session: SessionId) -> Sequence[Approval]:
        """The session's open questions, oldest first."""
        ...

    async def approval(self, tenant: TenantId, run: RunId, call: CallId) -> Approval | None:
        """The newest question about a call of a run, decided or not."""
        ...

    async def expire(self) -> Sequence[RunRequest]:
        """Answer open questions whose time has come, as many as one sweep may. A suspended run that waits for
        nothing else is queued as by a decision; returns the requests of those whose turn it is.
        """
        ...

    async def listed(self, tenant: TenantId, state: State | None = None, limit: int = 20) -> Sequence[Listed]:
        """The tenant's runs, newest first."""
        ...

    async def interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """Which of these somebody has interrupted: for their holder, whom the word may not have reached."""
        ...

    async def stranded(self, age_s: float, *, held_s: float = 60.0) -> Sequence[RunRequest]:
        """Requests that may be lost: of ready runs that nobody has claimed for `age_s`, and, once in every
        `held_s`, of running ones, whose runner may have died together with the broker's memory of them.
        """
        ...

    async def ping(self) -> None:
        """Raises `Unavailable` unless the database answers."""
        ...
