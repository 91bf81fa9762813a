"""The database of sessions, messages, runs and approvals."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rejoin_adapters.console_types import ALL_CALLS, CallFilter, OverviewFilter, RunOverview, UnansweredCall
from rejoin_adapters.history_bounds import ALL_HISTORY, HistoryBounds
from rejoin_adapters.store_types import (
    ALL_RUNS,
    Admission,
    Admitted,
    Approval,
    ApprovalRequest,
    AskedCall,
    Claim,
    Decided,
    Decision,
    EarlierMessages,
    History,
    Interrupted,
    Loss,
    MessageWithNext,
    Owner,
    Run,
    RunFilter,
    RunSummary,
)
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.limits import PAGE_BYTES_MAX
from rejoin_protocol.run_request import RunRequest

EARLY_STOPS_MAX = 1_000
"""Interrupts of one tenant that are kept for messages which have not come yet."""
CALLS_MAX = 100
"""Calls with the same id that `find_calls` returns."""


class RunStore(Protocol):
    """Each method is one transaction. A method that takes an `Owner` sees only that owner's data; everything
    else does not exist for it.
    """

    async def admit(self, admission: Admission) -> Admitted:
        """Store the user's message and create the run that answers it. The run is ready (see `Run.ready`)
        unless the session is busy or the tenant has reached `running_max`.

        Idempotent: the same message id with the same digest, or the same key with the same action, returns
        the existing run and changes nothing. A message whose interrupt has come already creates an
        interrupted run. With INTERRUPT, an edit or regeneration deletes the later messages at once. A running
        run whose answer is deleted is interrupted and stores nothing.

        With STEER, a new message steers the session's current run (`Run.steers`), unless that run is
        interrupted: it is no message of the history before the run is suspended or ends. Then it is a part
        of the answer, if that has it, and else its run is the next turn. The same message again returns its
        own run, or the run whose answer has it.

        Stores nothing if it raises `Conflict` (the id is taken by other content and `edit` is off; the key
        is taken by another action; the session has a busy run that is not interrupted, and `when_busy` is
        REJECT, or neither REJECT nor INTERRUPT with an edit or a regeneration; the edited message steers or
        steered a run), `NotFound` (nothing to regenerate, or another user's session) or `Limited` (also if
        `STEERING_MAX` messages wait for the run's next step).
        """
        ...

    async def check_limits(self, owner: Owner) -> None:
        """Check the limits of tenant and user before expensive work. Raises `Limited` as `admit` does."""
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
        """The run that `admit` would return for a repeated `Submit` of this message, or None for a new one.
        Raises `Conflict` if the key is taken by another action.
        """
        ...

    async def interrupt(
        self,
        owner: Owner,
        session: SessionId,
        run: RunId | None = None,
        *,
        message: MessageId | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> Interrupted:
        """Interrupt runs of the session: the named one or that of the named message; without a name the
        current one and every suspended one. Returns the one that is ended first.

        Cancels their pending approvals. A queued or running run is flagged; the runner that has it, or claims
        it, ends it. A suspended run is queued for one more turn, in which a runner ends it. Idempotent until
        the run has ended; after that it changes nothing.

        A message that is not stored yet, and the first message of a session that does not exist, are
        interrupted if they come within seconds. `seen`: the part of the answer that the user had seen last.
        Raises `NotFound` for a run that is not in the session, and `Limited` if `EARLY_STOPS_MAX` interrupts
        wait for their messages.
        """
        ...

    async def find_seen(self, run: RunId) -> dict[str, Any] | None:
        """The argument `seen` of the `interrupt` of this run, or None."""
        ...

    async def find_run(self, owner: Owner, run: RunId) -> Run | None:
        """A run of this owner, or None."""
        ...

    async def has_ended(self, owner: Owner, run: RunId, turn: int | None = None) -> bool:
        """True if the run is terminal, deleted or unknown. With `turn`, also true if the run is suspended or
        in a later turn. Concurrent calls share one query.
        """
        ...

    async def current_run(self, owner: Owner, session: SessionId) -> Run | None:
        """The session's current run (ready or first in the queue), else its newest run."""
        ...

    async def history(
        self, owner: Owner, session: SessionId, *, after: int = -1, bytes_max: int = PAGE_BYTES_MAX
    ) -> History | None:
        """The session and the page of its messages behind position `after`, or None if there is no such
        session. A page has at least one message, if one is left, and at most `bytes_max` beyond that.
        """
        ...

    async def find_message(
        self, owner: Owner, session: SessionId, message: MessageId
    ) -> MessageWithNext | None:
        """One message of the session's history, or None."""
        ...

    async def messages_before(
        self,
        owner: Owner,
        session: SessionId,
        message: MessageId,
        *,
        after: MessageId | None = None,
        limit: int = 20,
        oldest_first: bool = False,
    ) -> EarlierMessages | None:
        """A page of the messages before `message`, newest first by default, starting behind `after`.

        A page has at most `PAGE_BYTES_MAX`, or one message. `message` need not be visible itself. None if the
        session has no such message, or no message `after` before it.
        """
        ...

    async def claim(
        self, request: RunRequest, runner: str, bounds: HistoryBounds = ALL_HISTORY
    ) -> Claim | None:
        """Claim a run, or take it over: increments its attempt, which fences all earlier attempts.

        None if the request is stale: the turn is over, the run has ended, or it was deleted. `bounds` limit
        the history to the newest messages, at least one; the first of them is then a user message.
        """
        ...

    async def load_history(self, claim: Claim) -> Claim:
        """The claim with its history, if that was too large to come with it."""
        ...

    async def release(self, run: RunId, attempt: int, *, failed: bool = False) -> bool:
        """Record that the attempt's runner ends it without an end of the turn: the attempt is no loss.
        `failed`: because of an error of its own. Returns whether it is still the newest attempt.
        """
        ...

    async def find_losses(self, run: RunId) -> Sequence[Loss]:
        """The run's lost and failed attempts, oldest first. A claim finds out that the attempt before it was
        lost.
        """
        ...

    async def report_loss(self, run: RunId, attempt: int | None, loss: Loss) -> None:
        """Record why the newest attempt is lost; the attempt of `loss` does not matter. Does nothing if
        `attempt` is not the newest one (None: whatever the newest one is), or the run is not running.
        """
        ...

    async def find_steering(
        self, run: RunId, attempt: int, logged: Sequence[MessageId]
    ) -> Sequence[MessageDict]:
        """The messages that steer the run and that its log does not have, oldest first. `logged`: those that
        the log has. Raises `Fenced` if it has anything to say to another attempt.
        """
        ...

    async def request_approvals(self, run: RunId, attempt: int, requests: Sequence[ApprovalRequest]) -> None:
        """Store approval requests, and calls of client tools, before they are shown. Idempotent. The requests
        of an interrupted run are cancelled at once. Raises `Fenced`.
        """
        ...

    async def decide(self, owner: Owner, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """Store decisions about one run, all or none. The last pending one queues a suspended run's next
        turn.

        Repeating a decision has no effect. Raises `Conflict` for a different decision, output or `input` and
        for an approval that has expired or was cancelled, `NotFound`, and `Invalid` if the decisions concern
        several runs, have another kind than their requests, or change arguments without an `edit_schema`.
        """
        ...

    async def suspend(self, run: RunId, attempt: int, answer: MessageDict) -> RunRequest | None:
        """Store the answer so far and suspend the run. If everything was decided meanwhile, or the run is
        interrupted, it continues at once in its next turn and stays running.

        Suspending promotes the session's next run, or the run of the tenant that has waited longest for a
        place. Returns the request of the promoted or continued run, which the caller publishes; None if no
        run is promoted or continued. Messages that steer the run and that `answer` does not have become the
        next turns, unless the run continues. Raises `Fenced`.
        """
        ...

    async def end(
        self,
        run: RunId,
        attempt: int,
        state: State,
        answer: MessageDict | None,
        error: str | None,
        error_code: str | None = None,
    ) -> RunRequest | None:
        """Store the answer and the terminal state, of a failed run with the code of its failure (None:
        `INTERNAL_ERROR`), cancel pending approvals, settle steering messages and
        promote as `suspend` does, and return the promoted run's request. Idempotent for one attempt. Raises
        `Fenced`.
        """
        ...

    async def pending_approvals(
        self, owner: Owner, session: SessionId, ids: Sequence[ApprovalId] | None = None
    ) -> Sequence[Approval]:
        """The session's pending approvals, oldest first; or the approvals with these ids, decided or not."""
        ...

    async def find_approval(self, owner: Owner, run: RunId, call: CallId) -> Approval | None:
        """The newest approval of a tool call, decided or not, or None."""
        ...

    async def find_calls(
        self, owner: Owner, call: CallId, session: SessionId | None = None
    ) -> Sequence[AskedCall]:
        """The owner's calls with this id that need or needed a decision, of one session or of all: the open
        ones first, then the newest first, at most `CALLS_MAX`. Ids of calls are unique in a run only.
        """
        ...

    async def answered_calls(self, owner: Owner, session: SessionId) -> Sequence[AskedCall]:
        """The answered calls of the session's runs that have not ended, oldest first. Left out are calls of
        earlier turns, whose answers are in the stored messages.
        """
        ...

    async def waiting_calls(
        self, owner: Owner, wanted: CallFilter = ALL_CALLS, limit: int = 20
    ) -> Sequence[UnansweredCall]:
        """The owner's calls that wait for somebody, over all sessions, in the order of asking."""
        ...

    async def expire_approvals(self) -> Sequence[RunRequest]:
        """Deny pending approvals that have expired, a bounded number in one call. A suspended run whose last
        pending approval expires is queued. Returns the requests of queued runs that are ready.
        """
        ...

    async def list_runs(
        self, owner: Owner, wanted: RunFilter = ALL_RUNS, limit: int = 20
    ) -> Sequence[RunSummary]:
        """The owner's runs that a filter names, the last admitted first."""
        ...

    async def run_summary(self, owner: Owner, run: RunId) -> RunSummary | None:
        """One run of the owner with its times and its runner, or None."""
        ...

    async def overview(self, owner: Owner, wanted: OverviewFilter) -> RunOverview:
        """Counts of the owner's runs, from bounded parts of the table."""
        ...

    async def session_context(self, owner: Owner, session: SessionId) -> bytes | None:
        """The sealed context that the session keeps for later runs, or None."""
        ...

    async def find_interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """Which of these runs were interrupted or deleted. A runner asks in case it missed the interrupt
        message.
        """
        ...

    async def recover_stranded(
        self, age_s: float, *, republish_interval_s: float = 60.0
    ) -> Sequence[RunRequest]:
        """Promote waiting runs that have a place now, and return all requests that the queue may have lost,
        to be published again.

        These are: ready runs that no runner has claimed for `age_s`; running runs, once in every
        `republish_interval_s` seconds, because their runner and the broker's copy of the request may both be
        gone; and the promoted runs, because a limit was raised or a run that occupied a place was deleted.
        """
        ...

    async def logs_to_purge(self, limit: int = 100) -> Sequence[RunId]:
        """Deleted runs whose logs are due to be purged."""
        ...

    async def mark_purged(self, runs: Sequence[RunId]) -> None:
        """Record that the logs are purged. Each log is due a second time later, because a runner that did not
        know of the deletion may have appended; after that the run is forgotten.
        """
        ...

    async def ping(self) -> None:
        """Raises `Unavailable` unless the database answers."""
        ...
