"""The rows of `MemoryRunStore`: a session, its messages, runs and approvals, and how they change together.

Each row knows its own session only. `run_store` checks owners and keeps what sessions share.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from rejoin_adapters.history_bounds import HistoryBounds
from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.store_types import (
    Approval,
    ApprovalRequest,
    Decision,
    EarlierMessages,
    Loss,
    Run,
    RunFilter,
    RunSummary,
    WhenBusy,
)
from rejoin_adapters.usage_types import RunUsage, parse_usage
from rejoin_protocol.errors import Busy, NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import AgentName, MessageId, SessionId, UserId
from rejoin_protocol.lifecycle import BUSY, TERMINAL, LifecycleEvent, State, next_state
from rejoin_protocol.limits import PAGE_BYTES_MAX
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.request_tools import RequestTool
from rejoin_protocol.run_request import RunRequest

type Asked = tuple[str, str | None, bytes | None]
"""What an idempotency key stands for: the kind of the request, the message it names, its digest."""


class MessageRow(msgspec.Struct):
    """A message."""

    id: MessageId
    position: int
    role: str
    body: bytes | None = None
    digest: bytes | None = None
    run: "RunRow | None" = None
    created_at: datetime = msgspec.field(default_factory=now_utc)

    @property
    def message(self) -> MessageDict:
        """The body, decoded. The message must have one."""
        message: MessageDict = msgspec.json.decode(self.body or b"")
        return message

    @property
    def size_bytes(self) -> int:
        """The size of its body."""
        return len(self.body or b"")


def measure_request(tools: Sequence[RequestTool], options: RequestOptions) -> int:
    """The size of the tools and options of a request, as JSON."""
    parts = [part for part in (tools, options) if part and part != RequestOptions()]
    return sum(len(msgspec.json.encode(part)) for part in parts)


def count_fitting(sizes: Iterable[int], bytes_max: int | None) -> int:
    """How many of the first sizes are at most `bytes_max` together; at least one, if there is one."""
    count = total = 0
    for size in sizes:
        total += size
        if count and bytes_max is not None and total > bytes_max:
            break
        count += 1
    return count


class RunRow(msgspec.Struct):
    """A run, and what it was asked for with."""

    row: Run
    answer: MessageRow
    asked: Asked
    key: str | None
    due_at: datetime | None
    created_at: datetime
    updated_at: datetime
    runner: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    context: bytes | None = None
    request_tools: Sequence[RequestTool] = ()
    request_options: RequestOptions = RequestOptions()
    seen: dict[str, Any] | None = None
    released_attempt: int = 0
    losses: dict[int, Loss] = {}
    model_usage: Mapping[str, RunUsage] = {}
    steers: "RunRow | None" = None
    steering: bytes | None = None
    """The body of the message that steers `steers`."""
    is_taken: bool = False
    """Whether the log of `steers` has the message."""
    on_stop: Callable[[Run], None] = lambda _: None

    def change(self, **fields: Any) -> None:
        """Change what is stored of it, and tell `on_stop` if it has ended or waits now."""
        before = self.row.state
        self.row = msgspec.structs.replace(self.row, **fields)
        self.updated_at = now_utc()
        if self.row.state in TERMINAL and self.ended_at is None:
            self.ended_at = self.updated_at
        if self.row.state is not before and self.row.state not in BUSY:
            self.on_stop(self.row)

    @property
    def message_body(self) -> MessageDict:
        """The message that steers another run, decoded."""
        message: MessageDict = msgspec.json.decode(self.steering or b"")
        return message

    @property
    def request_bytes(self) -> int:
        """The size of the tools and options that its request has brought."""
        return measure_request(self.request_tools, self.request_options)

    def start(self, now: datetime) -> None:
        """Make the run ready: runners may claim it."""
        self.change(ready=True)
        self.due_at = now

    @property
    def busy(self) -> bool:
        """Whether it is queued or running."""
        return self.row.state in BUSY

    @property
    def queued(self) -> bool:
        """Whether no runner has begun its present turn."""
        return self.row.state is State.QUEUED

    @property
    def listed(self) -> RunSummary:
        """The run as operators see it."""
        return RunSummary(
            self.row, self.created_at, self.updated_at, self.runner, self.started_at, self.ended_at
        )

    def matches(self, wanted: RunFilter, session: SessionId | None) -> bool:
        """Whether a filter names the run. `session`: the stored id of the filter's session."""
        return (
            wanted.state in {None, self.row.state}
            and wanted.error in {None, self.row.error_code}
            and wanted.agent in {None, self.row.agent}
            and wanted.user in {None, self.row.user}
            and session in {None, self.row.session}
            and (wanted.since is None or self.created_at >= wanted.since)
            and (wanted.before is None or self.row.id < wanted.before)
        )


class ApprovalRow(msgspec.Struct):
    """A question. `number` grows in the order of asking."""

    run: RunRow
    request: ApprovalRequest
    turn: int
    number: int
    asked_at: datetime = msgspec.field(default_factory=now_utc)
    decision: Decision | None = None
    cancelled: bool = False
    expired: bool = False
    decided_at: datetime | None = None

    @property
    def pending(self) -> bool:
        """Whether it is undecided and not cancelled."""
        return self.decision is None and not self.cancelled

    @property
    def due(self) -> bool:
        """Whether it is open, and its time has come."""
        return self.pending and self.request.expires_at is not None and self.request.expires_at <= now_utc()

    @property
    def shown(self) -> Approval:
        """The run as the store returns it."""
        return Approval(self.request, self.decision, self.turn, self.expired, self.decided_at)


class SessionRow(msgspec.Struct):
    """A session."""

    agent: AgentName
    user: UserId | None
    created_at: datetime
    updated_at: datetime
    context: bytes | None = None
    title: str | None = None
    metadata: Any = None
    forked_from: tuple[SessionId, MessageId] | None = None
    next_position: int = 0
    messages: list[MessageRow] = []
    runs: list[RunRow] = []
    approvals: list[ApprovalRow] = []
    may_start: Callable[[RunRow], bool] = lambda _run: True
    """Whether the run whose turn it is has a place in its tenant."""

    def check_agent(self, agent: AgentName) -> None:
        """Raises `NotFound` if the session is with another one."""
        if self.agent != agent:
            raise NotFound("the session is not with this agent")

    def message(self, id: MessageId) -> MessageRow | None:
        """The message of that id."""
        return next((message for message in self.messages if message.id == id), None)

    @property
    def shown_rows(self) -> list[MessageRow]:
        """The messages that readers see."""
        return [
            message
            for message in self.messages
            if message.body is not None
            and (message.role == "user" or message.run is None or not message.run.busy)
        ]

    @property
    def shown(self) -> list[MessageDict]:
        """The messages as readers see them."""
        return [row.message for row in self.shown_rows]

    def page(self, after: int, bytes_max: int) -> tuple[list[MessageDict], int | None]:
        """The messages behind a position, as many as fit, and where the next page begins."""
        rows = [row for row in self.shown_rows if row.position > after]
        page = rows[: count_fitting((row.size_bytes for row in rows), bytes_max)]
        return [row.message for row in page], page[-1].position if len(page) < len(rows) else None

    def before(
        self, end: MessageRow, after: MessageId | None, limit: int, *, oldest_first: bool
    ) -> EarlierMessages | None:
        """See `RunStore.messages_before`."""
        ids = [earlier.id for earlier in self.messages if earlier.position < end.position]
        if after is not None and after not in ids:
            return None
        if not oldest_first:
            ids.reverse()
        behind = ids[ids.index(after) + 1 :] if after is not None else ids
        shown = {row.id: row for row in self.shown_rows}
        rows = [shown[id] for id in behind if id in shown]
        page = rows[: min(limit, count_fitting((row.size_bytes for row in rows), PAGE_BYTES_MAX))]
        return EarlierMessages([row.message for row in page], len(page) < len(rows))

    def recent(self, end: int, bounds: HistoryBounds) -> tuple[list[MessageDict], bool, int]:
        """The newest turns before a position that fit, the newest one however large it is; whether others are
        left out; and their size.
        """
        stored = [message for message in self.messages if message.body is not None and message.position < end]
        fitting = count_fitting((row.size_bytes for row in reversed(stored)), bounds.bytes_max)
        kept = stored[max(0, len(stored) - fitting, len(stored) - (bounds.messages_max or len(stored))) :]
        cut = len(kept) < len(stored)
        if cut:
            asked = [place for place, message in enumerate(stored) if message.role == "user"]
            first = len(stored) - len(kept)
            kept = stored[
                next((place for place in asked if place >= first), asked[-1] if asked else len(stored)) :
            ]
        return [row.message for row in kept], cut, sum(row.size_bytes for row in kept)

    def count_bytes(self, end: int | None = None) -> int:
        """The size of its messages, and of the tools that requests have brought for its runs. `end`: without
        what goes if all from that position on is deleted.
        """
        messages = sum(one.size_bytes for one in self.messages if end is None or one.position < end)
        kept = [
            run
            for run in self.runs
            if end is None or run.answer.position < end or run.row.state is not State.SUSPENDED
        ]
        return messages + sum(run.request_bytes for run in kept)

    def place(self, id: MessageId, role: str, body: bytes | None = None) -> MessageRow:
        """A new message at the end."""
        message = MessageRow(id, self.next_position, role, body)
        self.next_position += 1
        self.messages.append(message)
        return message

    @property
    def busy(self) -> bool:
        """Whether it, or one of its runs, is queued or running."""
        return any(run.busy for run in self.runs)

    @property
    def ready(self) -> RunRow | None:
        """The run whose turn it is."""
        return next((run for run in self.runs if run.busy and run.row.ready), None)

    @property
    def turn(self) -> RunRow | None:
        """The run whose turn it is, ready or not."""
        return self.ready or next((run for run in self.runs if run.busy), None)

    @property
    def waiting(self) -> RunRow | None:
        """The run whose turn it is, if it waits for nothing but a place in its tenant."""
        return None if self.ready is not None else self.turn

    @property
    def suspended(self) -> list[RunRow]:
        """The runs that wait for decisions, oldest first."""
        return [run for run in self.runs if run.row.state is State.SUSPENDED]

    def promote(self, now: datetime) -> RunRequest | None:
        """See `promote_run`: the next run's turn, and the request for it if one is due."""
        self.updated_at = now
        first = self.turn
        if first is None:
            return None
        if not first.row.ready and (first.row.interrupted or self.may_start(first)):
            first.start(now)
        return first.row.request if first.due_at is not None else None

    def resume(self, run: RunRow) -> None:
        """Queue the next turn of a suspended run if nothing is open in it any more."""
        if run.row.state is State.SUSPENDED and not any(one.pending for one in self.of(run)):
            run.change(
                state=next_state(run.row.state, LifecycleEvent.RESUME), ready=False, turn=run.row.turn + 1
            )
            self.promote(now_utc())

    def unended_before(self, run: RunRow) -> list[RunRow]:
        """The earlier runs that have not ended."""
        return [
            one
            for one in self.runs
            if one.row.state not in TERMINAL and one.answer.position < run.answer.position
        ]

    def interrupt(self, run: RunRow | None, seen: Mapping[str, Any] | None) -> RunRow | None:
        """Interrupt a run; None: the one whose turn it is, and all suspended ones. Returns the first one."""
        mine = run or self.turn or next(iter(self.suspended), None)
        if mine is None or mine.row.state in TERMINAL:
            return mine
        if not mine.row.interrupted:
            mine.seen = None if seen is None else dict(seen)
        self.flag(mine)
        for suspended in self.suspended if run is None else ():
            self.flag(suspended)
        self.promote(now_utc())
        return mine

    def flag(self, run: RunRow) -> None:
        """Interrupt a run: its open questions go, and a suspended one is queued for the turn that ends it."""
        if not run.row.interrupted:
            resumed = run.row.state is State.SUSPENDED
            state = next_state(run.row.state, LifecycleEvent.RESUME) if resumed else run.row.state
            ready = run.row.ready and not resumed
            run.change(interrupted=True, state=state, ready=ready, turn=run.row.turn + resumed)
        self.cancel_approvals(run)

    def apply_when_busy(self, when_busy: WhenBusy, start: int | None) -> None:
        """Apply `when_busy` before a new run is added. Messages from position `start` on are deleted."""
        occupied = any(run.busy and not run.row.interrupted for run in self.runs)
        if occupied and when_busy is WhenBusy.REJECT:
            raise Busy("the session is busy")
        if occupied and when_busy is not WhenBusy.INTERRUPT and start is not None:
            raise Busy("the session is busy: its messages cannot be replaced while a run answers them")
        if when_busy is WhenBusy.INTERRUPT:
            self.interrupt_all(start)
        if start is not None:
            self.truncate(start)

    def interrupt_all(self, start: int | None) -> None:
        """Interrupt the run whose turn it is, what answers messages that go, and what is suspended before."""
        turn = self.turn
        for run in self.runs:
            lost = start is not None and run.answer.position >= start
            if (run.busy and (run is turn or lost)) or (run in self.suspended and not lost):
                self.flag(run)
        self.promote(now_utc())

    def store_answer(self, run: RunRow, answer: MessageDict) -> None:
        """Unless an interrupted run has lost it."""
        run.change(usage=parse_usage(answer))
        if self.message(run.answer.id) is run.answer:  # an interrupted run may have lost it
            run.answer.body = msgspec.json.encode(answer)

    def truncate(self, start: int) -> None:
        """Drop the messages from a position on."""
        for message in self.messages:
            message.body = message.body if message.position < start else None
        self.messages = [message for message in self.messages if message.position < start]
        for run in self.runs:
            if run.row.state is State.SUSPENDED and run.answer.position >= start:
                run.change(state=next_state(run.row.state, LifecycleEvent.CANCEL))
                run.context, run.request_tools, run.request_options = None, (), RequestOptions()
                self.cancel_approvals(run)

    def steer(self, run: RunRow, message: MessageRow) -> None:
        """Let the message of a new waiting run steer the run whose turn it is, if neither is interrupted."""
        target = self.turn
        if target is None or target is run or target.row.interrupted or run.row.interrupted:
            return
        run.steers, run.steering, message.body = target, message.body, None
        run.change(steers=target.row.id)

    def steering(self, run: RunRow) -> list[RunRow]:
        """The runs whose messages steer a run, oldest first."""
        return [one for one in self.runs if one.steers is run]

    def record_steering(self, run: RunRow, logged: Collection[MessageId]) -> None:
        """Store which steering messages of a run its log has."""
        for waiting in self.steering(run):
            message = self.message(MessageId(waiting.row.user_message or ""))
            waiting.is_taken = waiting.row.user_message in logged
            if message is not None and message.body is None and message.run in (waiting, run):
                message.run = run if waiting.is_taken else waiting

    def settle_steering(self, run: RunRow) -> list[RunRow]:
        """The run stops working: the messages that its log has are in its answer, the others become the next
        turns. Returns the runs that go.
        """
        gone = []
        for waiting in self.steering(run):
            message = self.message(MessageId(waiting.row.user_message or ""))
            if message is None or message.body is not None or waiting.is_taken:
                self.messages = [one for one in self.messages if one is not waiting.answer]
                self.runs = [one for one in self.runs if one is not waiting]
                gone.append(waiting)
            else:
                message.body, message.run = waiting.steering, waiting
                waiting.steers = waiting.steering = None
                waiting.change(steers=None)
        return gone

    def cancel_approvals(self, run: RunRow) -> None:
        """Cancel the run's pending approvals."""
        for approval in self.approvals:
            if approval.run is run and approval.pending:
                approval.cancelled, approval.decided_at = True, now_utc()

    def of(self, run: RunRow) -> list[ApprovalRow]:
        """A run's questions."""
        return [approval for approval in self.approvals if approval.run is run]
