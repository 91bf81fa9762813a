"""What is asked of the database: the store's port and the structs it speaks in.

Each method is one transaction. What is asked on behalf of an `Owner` finds only what is the owner's:
everything else is as if it did not exist. Every method may raise `Unavailable`; whatever it was asked is
then either done or not, never half.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest

type Count = Annotated[int, Meta(ge=1, le=2**53)]

TOKENS_MAX = 2**53
"""More than this no run has cost, whatever somebody wrote into its metadata."""


class Owner(msgspec.Struct, frozen=True):
    """On whose behalf something is asked. Without a user it sees everything of its tenant; with one only the
    sessions of that user, and those it makes are that user's.
    """

    tenant: TenantId
    user: UserId | None = None


class RunUsage(msgspec.Struct, frozen=True):
    """What a run has cost, in tokens."""

    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def total(self) -> int:
        """Both together."""
        return self.input_tokens + self.output_tokens


def parse_usage(answer: UIMessage) -> RunUsage:
    """What an answer's metadata says of its run's usage; zero where it says nothing that can be counted."""

    def field(found: Any, name: str) -> Any:
        return found.get(name) if isinstance(found, dict) else None

    def tokens(name: str) -> int:
        count = field(field(field(answer, "metadata"), "usage"), name)
        return count if isinstance(count, int) and 0 <= count < TOKENS_MAX else 0

    return RunUsage(tokens("inputTokens"), tokens("outputTokens"))


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much a tenant may have and ask for; None: as everybody's, and of everybody's: no limit.

    `running_max`: runs that are ready, which is all that runners ever see of it; others wait for their turn,
    in the order in which they were accepted. `queued_max`: runs that no runner has begun; it is looked at
    without a lock, so a burst may pass it by a few. `tokens_per_day`: from midnight to midnight, UTC, of runs
    that have ended or waited by then. `requests_per_minute`: at one gateway. `file_bytes_max`: of all files
    that it has; the same bytes of the same user count once.
    """

    running_max: Count | None = None
    queued_max: Count | None = None
    tokens_per_day: Count | None = None
    requests_per_minute: Count | None = None
    file_bytes_max: Count | None = None


class UserMessage(msgspec.Struct, frozen=True):
    """A user's message as it is stored. `digest` tells a repeated request from another one."""

    message: UIMessage
    digest: bytes


class Submit(msgspec.Struct, frozen=True):
    """Answer a new message. `edit`: if the id is stored with other content, replace it and all behind it."""

    turn: UserMessage
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

    `context` is opaque here, sealed already. It is the run's until the run ends; `remember` keeps it at the
    session too, for later runs that bring none.
    """

    owner: Owner
    session: SessionId
    agent: AgentName
    run: RunId
    answer: MessageId
    ask: Submit | Regenerate
    when_busy: WhenBusy = WhenBusy.ENQUEUE
    key: str | None = None
    context: bytes | None = None
    remember: bool = False


class Run(msgspec.Struct, frozen=True):
    """A run as it is stored. `ready`: it is its turn, in its session and in its tenant. `answer`: its
    assistant message. `interrupted`: it is to be ended, by the runner that has it or gets it. `user`: its
    session's. `usage`: as of its last suspension or its end.
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
    user: UserId | None = None
    usage: RunUsage = RunUsage()

    @property
    def owner(self) -> Owner:
        """On whose behalf it is executed: its session's user, if that has one."""
        return Owner(self.tenant, self.user)

    @property
    def request(self) -> RunRequest:
        """The request for what is to be done next."""
        return RunRequest(self.agent, self.id, self.turn)


class RunSummary(msgspec.Struct, frozen=True):
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


class ApprovalRequest(msgspec.Struct, frozen=True):
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

    question: ApprovalRequest
    decision: Decision | None
    turn: int
    expired: bool = False


class Claim(msgspec.Struct, frozen=True):
    """Everything a runner needs to go on with a run. `history`: the turns before its answer, oldest first.
    `answer`: the assistant message as stored at the last suspension. `context`: the run's own, else the
    session's.
    """

    run: Run
    history: Sequence[UIMessage]
    answer: UIMessage | None
    approvals: Sequence[Approval]
    context: bytes | None = None


class History(msgspec.Struct, frozen=True):
    """A session's messages, without that of a busy run, which its stream rebuilds whole."""

    agent: AgentName
    messages: Sequence[UIMessage]
    busy: Run | None
    created_at: datetime
    updated_at: datetime


class MessageWithNext(msgspec.Struct, frozen=True):
    """A message of a session, and the one behind it that a `History` would show."""

    message: UIMessage
    next: MessageId | None


class RunStore(Protocol):
    """Sessions, messages, runs and approvals. Each method is one transaction."""

    async def admit(self, admission: Admission) -> Admitted:
        """Store the turn and make the run that answers it; it is `ready` unless the session is busy or the
        tenant has as many ready runs as it may.

        The same message id with the same digest attaches to the run it made, and so does the same key with
        the same ask: that stores, drops and interrupts nothing. Raises `Conflict` (the id is taken by other
        content and `edit` is off; the key by another ask; the session is busy and `when_busy` is to reject,
        or to enqueue an edit or a regeneration), `NotFound` (nothing to regenerate; another user's session)
        or `Limited`, and then has stored nothing. An edit or regeneration that interrupts drops the messages
        at once: a busy run that has lost its answer with them is interrupted, and stores none any more.
        """
        ...

    async def check_limits(self, tenant: TenantId) -> None:
        """Whether `admit` would make a tenant another run now: asked before what costs something. Raises
        `Limited` as `admit` does.
        """
        ...

    async def find_duplicate(
        self,
        owner: Owner,
        session: SessionId,
        agent: AgentName,
        message: MessageId,
        digest: bytes,
        key: str | None = None,
    ) -> Run | None:
        """The run to which `admit` would attach a `Submit` of this message, because it has made it already.
        Raises `Conflict` for a key that is taken by another ask.
        """
        ...

    async def interrupt(self, owner: Owner, session: SessionId, run: RunId | None = None) -> Interrupted:
        """End a run of the session: the one named, else the one whose turn it is, else the newest suspended.

        Its open questions are cancelled. What is queued or running is flagged for the runner that has it or
        gets it; what is suspended is queued for the turn in which a runner ends it. Doing it again is the
        same answer, until the run is over: then nothing is changed. Raises `NotFound`.
        """
        ...

    async def run(self, owner: Owner, run: RunId) -> Run | None:
        """One run of the owner's."""
        ...

    async def has_ended(self, owner: Owner, run: RunId, turn: int | None = None) -> bool:
        """Whether a run is over, or the owner has none of this id (any more); of a turn, whether the run has
        ended with it, waits behind it or has gone on from it. Many ask at once, now and again.
        """
        ...

    async def current(self, owner: Owner, session: SessionId) -> Run | None:
        """The session's run whose turn it is, ready or not, else the newest one."""
        ...

    async def history(self, owner: Owner, session: SessionId) -> History | None:
        """The session, or None if there is none."""
        ...

    async def message(self, owner: Owner, session: SessionId, id: MessageId) -> MessageWithNext | None:
        """One of the messages of a session's history, without the others."""
        ...

    async def before(
        self,
        owner: Owner,
        session: SessionId,
        id: MessageId,
        *,
        after: MessageId | None = None,
        limit: int = 20,
        oldest_first: bool = False,
    ) -> Sequence[UIMessage] | None:
        """What stands before a message of a session, which need not be shown itself: a page, from behind the
        message `after` on. None if the session has no such message, or no such `after` before it.
        """
        ...

    async def claim(
        self, request: RunRequest, runner: str, *, history_max: int | None = None
    ) -> Claim | None:
        """Take a run, or take it over: its attempt grows by one, and no earlier attempt can write any more.

        None if the request is stale: that turn is over, or the run is, or it was deleted. `history_max`: only
        the newest so many messages, of which the first is then a user's.
        """
        ...

    async def ask(self, run: RunId, attempt: int, questions: Sequence[ApprovalRequest]) -> None:
        """Store questions before they are shown. Asking again changes nothing. Those of an interrupted run
        are cancelled at once. Raises `Fenced`.
        """
        ...

    async def decide(self, owner: Owner, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """Store decisions of one run, all or none. The last open one queues a suspended run's next turn.

        The same decision again changes nothing. Raises `Conflict` for another one and for what is expired or
        cancelled, `NotFound`, and `Invalid` if the decisions are not all of one run.
        """
        ...

    async def suspend(self, run: RunId, attempt: int, answer: UIMessage) -> Sequence[RunRequest]:
        """Store the answer so far and let go of the run: it is suspended and the session's next run
        promoted, or the one of its tenant that has waited longest for a place. Or, if everything was decided
        meanwhile or the run is interrupted, it goes on at once in its next turn, still running. Returns the
        request of whichever it is, which the caller publishes.
        Raises `Fenced`.
        """
        ...

    async def end(
        self, run: RunId, attempt: int, state: State, answer: UIMessage | None, error: str | None
    ) -> RunRequest | None:
        """Store the answer and the terminal state; promote as `suspend` does and return the request.

        Open questions are cancelled. Doing it twice with the same attempt is doing it once. Raises `Fenced`.
        """
        ...

    async def pending(self, owner: Owner, session: SessionId) -> Sequence[Approval]:
        """The session's open questions, oldest first."""
        ...

    async def approval(self, owner: Owner, run: RunId, call: CallId) -> Approval | None:
        """The newest question about a call of a run, decided or not."""
        ...

    async def expire(self) -> Sequence[RunRequest]:
        """Answer open questions whose time has come, as many as one sweep may. A suspended run that waits for
        nothing else is queued as by a decision; returns the requests of those whose turn it is.
        """
        ...

    async def listed(self, owner: Owner, state: State | None = None, limit: int = 20) -> Sequence[RunSummary]:
        """The owner's runs, newest first."""
        ...

    async def listed_run(self, owner: Owner, run: RunId) -> RunSummary | None:
        """One run of the owner's, as operators see it."""
        ...

    async def session_context(self, owner: Owner, session: SessionId) -> bytes | None:
        """The context that the session keeps for later runs."""
        ...

    async def interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """Which of these somebody has interrupted or deleted: for their holder, whom no word has reached."""
        ...

    async def stranded(self, age_s: float, *, held_s: float = 60.0) -> Sequence[RunRequest]:
        """Requests that may be lost: of ready runs that nobody has claimed for `age_s`, and, once in every
        `held_s`, of running ones, whose runner may have died together with the broker's memory of them. Also
        of runs that should be ready, and are now: somebody has raised a limit, or deleted a run that had a
        place.
        """
        ...

    async def purge_due(self, limit: int = 100) -> Sequence[RunId]:
        """Runs that were deleted and whose logs are to be purged."""
        ...

    async def purged(self, runs: Sequence[RunId]) -> None:
        """Their logs are gone. Each is due once more after a while, for what a runner that did not know yet
        has written since; then it is forgotten.
        """
        ...

    async def ping(self) -> None:
        """Raises `Unavailable` unless the database answers."""
        ...
