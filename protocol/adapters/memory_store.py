"""The store's double: the same contract in plain dictionaries, for tests of what stands on it.

Nothing in it waits, so every method is one transaction by itself. Refusals come before the first change.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from protocol.adapters.ports import (
    Admission,
    Admitted,
    Approval,
    Claim,
    Decided,
    Decision,
    History,
    Interrupted,
    Listed,
    Question,
    Regenerate,
    Run,
    Submit,
    WhenBusy,
)
from protocol.commands import RunRequest
from protocol.errors import Conflict, Fenced, Invalid, NotFound
from protocol.fold import UIMessage
from protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId, TenantId
from protocol.lifecycle import BUSY, TERMINAL, Event, State, after

_ENDS = {State.COMPLETED: Event.COMPLETE, State.FAILED: Event.FAIL, State.CANCELLED: Event.CANCEL}


type _Asked = tuple[str, str | None, bytes | None]
"""What an idempotency key stands for: the kind of the request, the message it names, its digest."""


class _Message(msgspec.Struct):
    id: MessageId
    position: int
    role: str
    body: bytes | None = None
    digest: bytes | None = None
    run: "_Run | None" = None


class _Run(msgspec.Struct):
    row: Run
    answer: _Message
    asked: _Asked
    key: str | None
    due_at: datetime | None
    created_at: datetime
    updated_at: datetime
    runner: str | None = None

    def change(self, **fields: Any) -> None:
        self.row = msgspec.structs.replace(self.row, **fields)
        self.updated_at = _now()

    @property
    def busy(self) -> bool:
        return self.row.state in BUSY


class _Approval(msgspec.Struct):
    run: _Run
    question: Question
    turn: int
    decision: Decision | None = None
    cancelled: bool = False
    expired: bool = False

    @property
    def pending(self) -> bool:
        return self.decision is None and not self.cancelled

    @property
    def due(self) -> bool:
        return self.pending and self.question.expires_at is not None and self.question.expires_at <= _now()

    @property
    def shown(self) -> Approval:
        return Approval(self.question, self.decision, self.turn, self.expired)


class _Session(msgspec.Struct):
    agent: AgentName
    created_at: datetime
    updated_at: datetime
    next_position: int = 0
    messages: list[_Message] = []
    runs: list[_Run] = []
    approvals: list[_Approval] = []

    def message(self, id: MessageId) -> _Message | None:
        return next((message for message in self.messages if message.id == id), None)

    def place(self, id: MessageId, role: str, body: bytes | None = None) -> _Message:
        message = _Message(id, self.next_position, role, body)
        self.next_position += 1
        self.messages.append(message)
        return message

    @property
    def busy(self) -> bool:
        return any(run.busy for run in self.runs)

    @property
    def ready(self) -> _Run | None:
        return next((run for run in self.runs if run.busy and run.row.ready), None)

    def promote(self, now: datetime) -> RunRequest | None:
        self.updated_at = now
        first = self.ready or next((run for run in self.runs if run.busy), None)
        if first is None:
            return None
        if not first.row.ready:
            first.change(ready=True)
            first.due_at = now
        return first.row.request if first.due_at is not None else None

    def resume(self, run: _Run) -> None:
        if run.row.state is State.SUSPENDED and not any(one.pending for one in self.of(run)):
            run.change(state=after(run.row.state, Event.RESUME), ready=False, turn=run.row.turn + 1)
            self.promote(_now())

    def interrupt(self, run: _Run) -> None:
        run.change(interrupted=True)
        self.cancel_approvals(run)
        self.resume(run)

    def make_way(self, when_busy: WhenBusy, start: int | None) -> None:
        if self.busy and when_busy is WhenBusy.REJECT:
            raise Conflict("the session is busy")
        if self.busy and when_busy is WhenBusy.ENQUEUE and start is not None:
            raise Conflict("the session is busy: its messages cannot be replaced while a run answers them")
        for run in self.runs:
            lost = start is not None and run.answer.position >= start
            if when_busy is WhenBusy.INTERRUPT and run.busy and (run.row.ready or lost):
                self.interrupt(run)
        if start is not None:
            self.truncate(start)

    def store_answer(self, run: _Run, answer: UIMessage) -> None:
        if self.message(run.answer.id) is run.answer:  # an interrupted run may have lost it
            run.answer.body = msgspec.json.encode(answer)

    def truncate(self, start: int) -> None:
        for message in self.messages:
            message.body = message.body if message.position < start else None
        self.messages = [message for message in self.messages if message.position < start]
        for run in self.runs:
            if run.row.state is State.SUSPENDED and run.answer.position >= start:
                run.change(state=after(run.row.state, Event.CANCEL))
                self.cancel_approvals(run)

    def cancel_approvals(self, run: _Run) -> None:
        for approval in self.approvals:
            if approval.run is run and approval.pending:
                approval.cancelled = True

    def of(self, run: _Run) -> list[_Approval]:
        return [approval for approval in self.approvals if approval.run is run]


class MemoryStore:
    """`ports.Store`."""

    def __init__(self) -> None:
        self._sessions: dict[tuple[TenantId, SessionId], _Session] = {}
        self._runs: dict[RunId, _Run] = {}
        self._approvals: dict[ApprovalId, _Approval] = {}

    def _session_of(self, run: _Run) -> _Session:
        return self._sessions[run.row.tenant, run.row.session]

    async def admit(self, admission: Admission) -> Admitted:
        """See `ports.Store`."""
        match admission.ask:
            case Submit() as submit:
                asked: _Asked = "submit", submit.turn.message["id"], submit.turn.digest
                run = self._known(admission, asked) or self._submit(admission, submit, asked)
            case Regenerate(target):
                asked = "regenerate", target, None
                run = self._known(admission, asked) or self._regenerate(admission, target, asked)
        created = run.row.id == admission.run
        before = self._session_of(run).ready
        ours = created and admission.when_busy is WhenBusy.INTERRUPT and before is not run
        flagged = before.row if ours and before is not None and before.row.interrupted else None
        return Admitted(run.row, created, flagged)

    def _known(self, admission: Admission, asked: _Asked) -> _Run | None:
        """The run of the request's key, or that this very request has made."""
        session = self._sessions.get((admission.tenant, admission.session))
        for run in session.runs if session is not None and admission.key is not None else []:
            if run.key == admission.key and run.asked != asked:
                raise Conflict("the idempotency key is taken by another request")
            if run.key == admission.key:
                return run
        return self._runs.get(admission.run)

    def _submit(self, admission: Admission, submit: Submit, asked: _Asked) -> _Run:
        id = MessageId(submit.turn.message["id"])
        session = self._sessions.get((admission.tenant, admission.session))
        if session is None:
            session = self._open(admission, submit.imports, {id, admission.answer})
        known = session.message(id)
        if known is not None:
            if known.run is not None and known.digest == submit.turn.digest:
                return known.run
            if known.role != "user":
                raise Conflict("the message id is taken by a message that is not the user's")
            if not submit.edit:
                raise Conflict("the message id is taken by other content")
        session.make_way(admission.when_busy, known.position if known is not None else None)
        message = session.place(id, "user", msgspec.json.encode(submit.turn.message))
        message.digest = submit.turn.digest
        return self._add(admission, session, message, asked)

    def _open(self, admission: Admission, imports: Sequence[UIMessage], taken: set[MessageId]) -> _Session:
        session = _Session(admission.agent, _now(), _now())
        for turn in imports:
            if turn["id"] not in taken:
                taken.add(turn["id"])
                session.place(turn["id"], turn["role"], msgspec.json.encode(turn))
        self._sessions[admission.tenant, admission.session] = session
        return session

    def _regenerate(self, admission: Admission, target: MessageId | None, asked: _Asked) -> _Run:
        session = self._sessions.get((admission.tenant, admission.session))
        named = session.message(target) if session is not None and target is not None else None
        if session is None or (target is not None and named is None):
            raise NotFound("there is no such message in the session")
        end = session.next_position if named is None else named.position + (named.role == "user")
        users = [message for message in session.messages if message.role == "user" and message.position < end]
        if not users:
            raise NotFound("there is no message to answer again")
        session.make_way(admission.when_busy, users[-1].position + 1 if named is None else end)
        return self._add(admission, session, users[-1], asked)

    def _add(self, admission: Admission, session: _Session, message: _Message, asked: _Asked) -> _Run:
        ready = not session.busy
        answer = session.place(admission.answer, "assistant")
        row = Run(
            admission.run,
            admission.tenant,
            admission.session,
            admission.agent,
            admission.answer,
            State.QUEUED,
            ready=ready,
            turn=0,
            attempt=0,
        )
        now = _now()
        run = _Run(row, answer, asked, admission.key, now if ready else None, now, now)
        message.run = answer.run = run
        session.runs.append(run)
        session.updated_at = _now()
        self._runs[admission.run] = run
        return run

    async def run(self, tenant: TenantId, run: RunId) -> Run | None:
        """See `ports.Store`."""
        found = self._runs.get(run)
        return found.row if found is not None and found.row.tenant == tenant else None

    async def current(self, tenant: TenantId, session: SessionId) -> Run | None:
        """See `ports.Store`."""
        found = self._sessions.get((tenant, session))
        return (found.ready or found.runs[-1]).row if found is not None else None

    async def history(self, tenant: TenantId, session: SessionId) -> History | None:
        """See `ports.Store`."""
        found = self._sessions.get((tenant, session))
        if found is None:
            return None
        shown = [
            msgspec.json.decode(message.body)
            for message in found.messages
            if message.body is not None
            and (message.role == "user" or message.run is None or not message.run.busy)
        ]
        busy = found.ready.row if found.ready is not None else None
        return History(found.agent, shown, busy, found.created_at, found.updated_at)

    async def claim(self, request: RunRequest, runner: str) -> Claim | None:
        """See `ports.Store`."""
        run = self._runs.get(request.run)
        if run is None or run.row.turn != request.turn or not run.busy or not run.row.ready:
            return None
        run.change(state=after(run.row.state, Event.CLAIM), attempt=run.row.attempt + 1)
        run.due_at, run.runner = None, runner
        session = self._session_of(run)
        history = [
            msgspec.json.decode(message.body)
            for message in session.messages
            if message.body is not None and message.position < run.answer.position
        ]
        answer = msgspec.json.decode(run.answer.body) if run.answer.body is not None else None
        return Claim(run.row, history, answer, [approval.shown for approval in session.of(run)])

    async def ask(self, run: RunId, attempt: int, questions: Sequence[Question]) -> None:
        """See `ports.Store`."""
        mine = self._held(run, attempt)
        if mine.row.state is not State.RUNNING:
            raise Fenced("another attempt owns the run")
        for question in questions:
            if question.id not in self._approvals:
                copy = msgspec.json.decode(msgspec.json.encode(question), type=Question)
                asked = _Approval(mine, copy, mine.row.turn, cancelled=mine.row.interrupted)
                self._approvals[question.id] = asked
                self._session_of(mine).approvals.append(asked)

    def _held(self, run: RunId, attempt: int) -> _Run:
        held = self._runs.get(run)
        if held is None or held.row.attempt != attempt:
            raise Fenced("another attempt owns the run")
        return held

    async def decide(self, tenant: TenantId, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """See `ports.Store`."""
        found = self._sessions.get((tenant, session))
        asked = [self._approvals.get(decision.approval) for decision in decisions]
        open_here = [one for one in asked if one is not None and found is not None and one in found.approvals]
        if found is None or len(open_here) != len(decisions):
            raise NotFound("there is no such approval in the session")
        if len({one.run.row.id for one in open_here}) != 1:
            raise Invalid("the decisions are not all of one run")
        said: dict[ApprovalId, bool] = {}
        for one, decision in zip(open_here, decisions, strict=True):
            approved = one.decision.approved if one.decision is not None else decision.approved
            agrees = said.setdefault(decision.approval, approved) == decision.approved
            if one.cancelled or one.expired or one.due or not agrees:
                raise Conflict("the approval is decided already")
        for one, decision in zip(open_here, decisions, strict=True):
            one.decision = one.decision or decision
        run = open_here[0].run
        found.resume(run)
        return Decided(run.row, max(one.turn for one in open_here) + 1)

    async def suspend(self, run: RunId, attempt: int, answer: UIMessage) -> Sequence[RunRequest]:
        """See `ports.Store`."""
        mine = self._held(run, attempt)
        session = self._session_of(mine)
        if mine.row.state is State.RUNNING:
            session.store_answer(mine, answer)
            asked = session.of(mine)
            if any(approval.pending for approval in asked):
                mine.change(state=after(mine.row.state, Event.SUSPEND))
                mine.due_at = None
            else:
                mine.change(turn=mine.row.turn + any(one.turn == mine.row.turn for one in asked))
                mine.due_at = mine.due_at or _now()
        elif mine.row.state in TERMINAL:
            raise Fenced("the run is over")
        following = session.promote(_now())
        return [] if following is None else [following]

    async def end(
        self, run: RunId, attempt: int, state: State, answer: UIMessage | None, error: str | None
    ) -> RunRequest | None:
        """See `ports.Store`."""
        if state not in TERMINAL:
            raise ValueError(f"a run does not end {state}")
        mine = self._held(run, attempt)
        session = self._session_of(mine)
        if mine.row.state is State.RUNNING:
            mine.change(state=after(mine.row.state, _ENDS[state]), error=error)
            mine.due_at = None
            if answer is not None:
                session.store_answer(mine, answer)
            session.cancel_approvals(mine)
        elif mine.row.state is not state:
            raise Fenced("the run is over")
        return session.promote(_now())

    async def interrupt(self, tenant: TenantId, session: SessionId, run: RunId | None = None) -> Interrupted:
        """See `ports.Store`."""
        found = self._sessions.get((tenant, session))
        if found is None:
            raise NotFound("there is no such session")
        if run is not None:
            mine = next((one for one in found.runs if one.row.id == run), None)
            if mine is None:
                raise NotFound("there is no such run in the session")
        else:
            suspended = [one for one in found.runs if one.row.state is State.SUSPENDED]
            mine = found.ready or (suspended[-1] if suspended else None)
        if mine is None or mine.row.state in TERMINAL:
            return Interrupted(mine.row if mine is not None else None, interrupted=False)
        found.interrupt(mine)
        return Interrupted(mine.row, interrupted=True)

    async def pending(self, tenant: TenantId, session: SessionId) -> Sequence[Approval]:
        """See `ports.Store`."""
        found = self._sessions.get((tenant, session))
        return [one.shown for one in found.approvals if one.pending] if found is not None else []

    async def approval(self, tenant: TenantId, run: RunId, call: CallId) -> Approval | None:
        """See `ports.Store`."""
        asked = [
            one.shown
            for one in self._approvals.values()
            if (one.run.row.tenant, one.run.row.id, one.question.call) == (tenant, run, call)
        ]
        return asked[-1] if asked else None

    async def expire(self) -> Sequence[RunRequest]:
        """See `ports.Store`."""
        due = [one for one in self._approvals.values() if one.due]
        for one in due:
            one.decision, one.expired = Decision(one.question.id, approved=False), True
        runs = {one.run.row.id: one.run for one in due}.values()
        for run in runs:
            self._session_of(run).resume(run)
        return [run.row.request for run in runs if run.row.state is State.QUEUED and run.row.ready]

    async def listed(self, tenant: TenantId, state: State | None = None, limit: int = 20) -> Sequence[Listed]:
        """See `ports.Store`."""
        found = [
            Listed(run.row, run.created_at, run.updated_at, run.runner)
            for run in self._runs.values()
            if run.row.tenant == tenant and state in {None, run.row.state}
        ]
        return sorted(found, key=lambda one: one.run.id, reverse=True)[:limit]

    async def interrupted(self, runs: Sequence[RunId]) -> Sequence[RunId]:
        """See `ports.Store`."""
        return [run for run in runs if run in self._runs and self._runs[run].row.interrupted]

    async def stranded(self, age_s: float, *, held_s: float = 60.0) -> Sequence[RunRequest]:
        """See `ports.Store`."""
        now = _now()
        runs = list(self._runs.values())
        due = [run for run in runs if run.due_at and (now - run.due_at).total_seconds() > age_s]
        due.sort(key=lambda run: run.due_at or now)
        held = [
            run
            for run in runs
            if run.row.state is State.RUNNING
            and run.due_at is None
            and (now - run.updated_at).total_seconds() > held_s
        ]
        for run in held:
            run.updated_at = now
        return [run.row.request for run in (*due, *held)]

    async def ping(self) -> None:
        """See `ports.Store`."""


def _now() -> datetime:
    return datetime.now(UTC)
