"""`RunStore` in plain dictionaries: it keeps the same contract as PostgreSQL.

Nothing in it waits, so every method is one transaction by itself. Refusals come before the first change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rejoin_adapters.history_bounds import ALL_HISTORY, HistoryBounds
from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.rows import (
    ApprovalRow,
    Asked,
    MessageRow,
    RunRow,
    SessionRow,
    measure_request,
)
from rejoin_adapters.memory.database.run_queries import MemoryRunQueries
from rejoin_adapters.ports.run_store import CALLS_MAX
from rejoin_adapters.session_keys import check_new, named_run
from rejoin_adapters.store_types import (
    Admission,
    Admitted,
    Approval,
    ApprovalRequest,
    AskedCall,
    Claim,
    Decided,
    Decision,
    Interrupted,
    Loss,
    Owner,
    Regenerate,
    Run,
    Submit,
    WhenBusy,
)
from rejoin_adapters.usage_types import parse_model_usage
from rejoin_protocol.errors import Conflict, Fenced, Invalid, Limited, NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import steering_ids
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import INTERNAL_ERROR, TERMINAL, LifecycleEvent, State, next_state
from rejoin_protocol.limits import STEERING_MAX
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.run_request import RunRequest

_ENDS = {
    State.COMPLETED: LifecycleEvent.COMPLETE,
    State.FAILED: LifecycleEvent.FAIL,
    State.CANCELLED: LifecycleEvent.CANCEL,
}


class MemoryRunStore(MemoryRunQueries):
    """`RunStore` in memory. The other ports of the database see its rows through `database`."""

    async def admit(self, admission: Admission) -> Admitted:
        """See `RunStore`."""
        owner = admission.owner
        admission = msgspec.structs.replace(admission, session=self.database.key(owner, admission.session))
        match admission.action:
            case Submit() as submit:
                asked: Asked = "submit", submit.user_message.message["id"], submit.user_message.digest
                run = self._known(admission, asked) or self._submit(admission, submit, asked)
            case Regenerate(target, kept):
                asked = "regenerate", target, None
                run = self._known(admission, asked) or self._regenerate(admission, target, kept, asked)
        created = run.row.id == admission.run
        before = self.database.session_of(run).ready
        ours = created and admission.when_busy is WhenBusy.INTERRUPT and before is not run
        flagged = before.row if ours and before is not None and before.row.interrupted else None
        return Admitted(named_run(owner, run.row), created, flagged and named_run(owner, flagged))

    def _known(self, admission: Admission, asked: Asked) -> RunRow | None:
        """The run of the idempotency key, or the run that the same request has created before."""
        session = self.database.find_session(admission.owner, admission.session)
        for run in session.runs if session is not None and admission.key is not None else []:
            if run.key == admission.key and run.asked != asked:
                raise Conflict("the idempotency key is taken by another request")
            if run.key == admission.key:
                return run
        return self.database.runs.get(admission.run)

    async def check_limits(self, owner: Owner) -> None:
        """See `RunStore`."""
        self.database.check_limits(owner.tenant, owner.user)

    async def find_duplicate(
        self,
        owner: Owner,
        session: SessionId,
        agent: AgentName,
        message: MessageId,
        digest: bytes,
        key: str | None = None,
    ) -> Run | None:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        if found is None or found.agent != agent:
            return None
        named = next((run for run in found.runs if key is not None and run.key == key), None)
        if named is not None and named.asked != ("submit", message, digest):
            raise Conflict("the idempotency key is taken by another request")
        stored = found.message(message)
        made = named or (stored.run if stored is not None and stored.digest == digest else None)
        return named_run(owner, made.row) if made is not None else None

    def _submit(self, admission: Admission, submit: Submit, asked: Asked) -> RunRow:
        id = MessageId(submit.user_message.message["id"])
        session = self.database.find_session(admission.owner, admission.session)
        if session is None:
            self.database.check_limits(admission.owner.tenant, admission.owner.user)
            session = self._open(admission, submit.imports, {id, admission.answer})
        session.check_agent(admission.agent)
        known = session.message(id)
        if known is not None:
            if known.run is not None and known.digest == submit.user_message.digest:
                return known.run
            if known.role != "user":
                raise Conflict("the message id is taken by a message that is not the user's")
            if not submit.edit:
                raise Conflict("the message id is taken by other content")
            if known.body is None:
                raise Conflict("the message steers a run: edit an earlier one")
        self.database.check_limits(admission.owner.tenant, session.user)
        body = msgspec.json.encode(submit.user_message.message)
        self._check_size(admission, session, len(body), None if known is None else known.position)
        if admission.when_busy is WhenBusy.STEER and session.turn is not None:
            waiting = [one for one in session.steering(session.turn) if not one.is_taken]
            if len(waiting) >= STEERING_MAX:
                raise Limited(f"the run has {STEERING_MAX} steering messages that wait for its next step", 5)
        self.database.sessions[admission.owner.tenant, admission.session] = session
        session.apply_when_busy(admission.when_busy, known.position if known is not None else None)
        message = session.place(id, "user", body)
        message.digest = submit.user_message.digest
        run = self._add(admission, session, message, asked)
        if admission.when_busy is WhenBusy.STEER:
            session.steer(run, message)
        return run

    def _following(self, session: SessionRow, tenant: TenantId) -> RunRequest | None:
        """Promote the session's next run, or else the tenant's."""
        request = session.promote(now_utc())
        waiting = self.database.waiting(tenant)
        if request is not None or not waiting or not self.database.has_place(tenant):
            return request
        waiting[0].start(now_utc())
        return waiting[0].row.request

    def _store_answer(self, run: RunRow, answer: MessageDict) -> None:
        before, run.model_usage = run.model_usage, parse_model_usage(answer)
        self.database.session_of(run).store_answer(run, answer)
        self.database.count_usage(run.row, before, run.model_usage)

    def _open(self, admission: Admission, turns: Sequence[MessageDict], taken: set[MessageId]) -> SessionRow:
        check_new(admission.session, admission.owner.user)
        session = SessionRow(admission.agent, admission.owner.user, now_utc(), now_utc())
        session.may_start = self.database.may_start
        for turn in turns:
            if turn["id"] not in taken:
                taken.add(turn["id"])
                session.place(turn["id"], turn["role"], msgspec.json.encode(turn))
        return session

    def _regenerate(
        self, admission: Admission, target: MessageId | None, kept: MessageDict | None, asked: Asked
    ) -> RunRow:
        session = self.database.find_session(admission.owner, admission.session)
        named = session.message(target) if session is not None and target is not None else None
        hidden = named is not None and named.role == "user" and named.body is None
        if session is None or (target is not None and named is None) or hidden:
            raise NotFound("there is no such message in the session")
        session.check_agent(admission.agent)
        end = session.next_position if named is None else named.position + (named.role == "user")
        users = [one for one in session.messages if one.role == "user" and one.position < end and one.body]
        if not users:
            raise NotFound("there is no message to answer again")
        self.database.check_limits(admission.owner.tenant, session.user)
        start = users[-1].position + 1 if named is None else end
        kept_bytes = 0 if kept is None else len(msgspec.json.encode(kept))
        if kept_bytes or measure_request(admission.request_tools, admission.request_options):
            self._check_size(admission, session, kept_bytes, start)
        session.apply_when_busy(admission.when_busy, start)
        run = self._add(admission, session, users[-1], asked)
        if kept is not None:
            session.store_answer(run, kept)
            run.change(turn=1)
        return run

    def _check_size(
        self, admission: Admission, session: SessionRow, message_bytes: int, end: int | None
    ) -> None:
        added = message_bytes + measure_request(admission.request_tools, admission.request_options)
        self.database.check_size(admission.owner.tenant, session, added, end)

    def _add(self, admission: Admission, session: SessionRow, message: MessageRow, asked: Asked) -> RunRow:
        tenant = admission.owner.tenant
        ready = not session.busy and not (
            self.database.is_limited(tenant)
            and (self.database.waiting(tenant) or not self.database.has_place(tenant, session.user))
        )
        answer = session.place(admission.answer, "assistant")
        row = Run(
            admission.run,
            admission.owner.tenant,
            admission.session,
            admission.agent,
            admission.answer,
            State.QUEUED,
            ready=ready,
            turn=0,
            attempt=0,
            user=session.user,
            user_message=message.id,
            interrupted=self.database.was_stopped(admission.owner.tenant, admission.session, message.id),
            operation_set=admission.operation_set,
            trace=admission.trace,
        )
        now = now_utc()
        run = RunRow(row, answer, asked, admission.key, now if ready else None, now, now)
        run.on_stop = self.database.queue_webhooks
        run.context = admission.context
        run.request_tools, run.request_options = admission.request_tools, admission.request_options
        if admission.remember:
            session.context = admission.context
        message.run = answer.run = self.database.runs[admission.run] = run
        session.runs.append(run)
        session.updated_at = now_utc()
        return run

    async def claim(
        self, request: RunRequest, runner: str, bounds: HistoryBounds = ALL_HISTORY
    ) -> Claim | None:
        """See `RunStore`."""
        run = self.database.runs.get(request.run)
        if run is None or run.row.turn != request.turn or not run.busy or not run.row.ready:
            return None
        earlier = run.row.attempt
        if run.row.state is State.RUNNING and run.due_at is None and earlier > run.released_attempt:
            run.losses.setdefault(earlier, Loss(earlier))
        run.change(state=next_state(run.row.state, LifecycleEvent.CLAIM), attempt=run.row.attempt + 1)
        run.due_at, run.runner, run.started_at = None, runner, run.started_at or now_utc()
        session = self.database.session_of(run)
        history, cut, size = session.recent(run.answer.position, bounds)
        answer = msgspec.json.decode(run.answer.body) if run.answer.body is not None else None
        context = run.context if run.context is not None else session.context
        waiting = [one.answer.id for one in session.unended_before(run)]
        approvals = [approval.shown for approval in session.of(run)]
        steering = [one.message_body for one in session.steering(run) if not one.row.interrupted]
        return Claim(
            run.row,
            history,
            answer,
            approvals,
            context,
            waiting,
            cut,
            size,
            history_from=None,
            steering=steering,
            request_tools=list(run.request_tools),
            request_options=run.request_options,
        )

    async def load_history(self, claim: Claim) -> Claim:
        """See `RunStore`."""
        return claim

    async def find_steering(
        self, run: RunId, attempt: int, logged: Sequence[MessageId]
    ) -> Sequence[MessageDict]:
        """See `RunStore`."""
        mine = self.database.runs.get(run)
        session = None if mine is None else self.database.session_of(mine)
        if mine is None or session is None or not session.steering(mine):
            return []
        session.record_steering(self._held(run, attempt), logged)
        waiting = [one for one in session.steering(mine) if not one.is_taken and not one.row.interrupted]
        return [one.message_body for one in waiting]

    def _settle(self, run: RunRow) -> None:
        """What happens to its steering messages when a run stops working."""
        for gone in self.database.session_of(run).settle_steering(run):
            del self.database.runs[gone.row.id]

    async def request_approvals(self, run: RunId, attempt: int, requests: Sequence[ApprovalRequest]) -> None:
        """See `RunStore`."""
        mine = self._held(run, attempt)
        if mine.row.state is not State.RUNNING:
            raise Fenced("another attempt owns the run")
        for request in requests:
            if request.id not in self.database.approvals:
                copy = msgspec.json.decode(msgspec.json.encode(request), type=ApprovalRequest)
                number = next(self.database.approval_numbers)
                asked = ApprovalRow(mine, copy, mine.row.turn, number, cancelled=mine.row.interrupted)
                self.database.approvals[request.id] = asked
                self.database.session_of(mine).approvals.append(asked)

    def _held(self, run: RunId, attempt: int) -> RunRow:
        held = self.database.runs.get(run)
        if held is None or held.row.attempt != attempt:
            raise Fenced("another attempt owns the run")
        return held

    async def decide(self, owner: Owner, session: SessionId, decisions: Sequence[Decision]) -> Decided:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        asked = [self.database.approvals.get(decision.approval) for decision in decisions]
        open_here = [one for one in asked if one is not None and found is not None and one in found.approvals]
        if found is None or len(open_here) != len(decisions):
            raise NotFound("there is no such approval in the session")
        if len({one.run.row.id for one in open_here}) != 1:
            raise Invalid("the decisions are not all of one run")
        if any(one.request.kind != said.kind for one, said in zip(open_here, decisions, strict=True)):
            raise Invalid("a decision is for a call that needs an approval, an output for a client's tool")
        said: dict[ApprovalId, Decision] = {}
        for one, decision in zip(open_here, decisions, strict=True):
            stored = said.setdefault(decision.approval, one.decision or decision)
            agrees = stored.approved == decision.approved and (
                decision.kind == "approval"
                or (stored.output, stored.reason) == (decision.output, decision.reason)
            )
            if one.cancelled or one.expired or one.due or not agrees:
                raise Conflict("the approval is decided already")
        if any(
            edit.input is not None and one.request.edit_schema is None
            for one, edit in zip(open_here, decisions, strict=True)
        ):
            raise Invalid("the arguments of this call cannot be changed")
        if any(one.approved and said[one.approval].input != one.input for one in decisions):
            raise Conflict("the approval is decided already, with other arguments")
        for one, decision in zip(open_here, decisions, strict=True):
            if one.decision is None:
                one.decision, one.decided_at = decision, now_utc()
                if decision.kind == "approval":
                    action = "approval.approved" if decision.approved else "approval.denied"
                    self.database.record_audit(
                        owner.tenant,
                        action,
                        one.request.id,
                        session=one.run.row.session,
                        run=one.run.row.id,
                        tool=one.request.tool,
                        edited=decision.input is not None,
                    )
        run = open_here[0].run
        found.resume(run)
        return Decided(named_run(owner, run.row), max(one.turn for one in open_here) + 1)

    async def suspend(self, run: RunId, attempt: int, answer: MessageDict) -> RunRequest | None:
        """See `RunStore`."""
        mine = self._held(run, attempt)
        session = self.database.session_of(mine)
        session.record_steering(mine, steering_ids(answer))
        if mine.row.state is State.RUNNING:
            self._store_answer(mine, answer)
            asked = session.of(mine)
            if any(approval.pending for approval in asked):
                mine.change(state=next_state(mine.row.state, LifecycleEvent.SUSPEND))
                mine.due_at = None
                self._settle(mine)
            else:
                mine.change(turn=mine.row.turn + any(one.turn == mine.row.turn for one in asked))
                mine.due_at = mine.due_at or now_utc()
        elif mine.row.state in TERMINAL:
            raise Fenced("the run is over")
        return self._following(session, mine.row.tenant)

    async def end(
        self,
        run: RunId,
        attempt: int,
        state: State,
        answer: MessageDict | None,
        error: str | None,
        error_code: str | None = None,
    ) -> RunRequest | None:
        """See `RunStore`."""
        if state not in TERMINAL:
            raise ValueError(f"{state} is not a terminal state")
        mine = self._held(run, attempt)
        session = self.database.session_of(mine)
        session.record_steering(mine, steering_ids(answer))
        if mine.row.state is State.RUNNING:
            code = (error_code or INTERNAL_ERROR) if state is State.FAILED else None
            mine.change(state=next_state(mine.row.state, _ENDS[state]), error=error, error_code=code)
            mine.due_at = mine.context = None
            mine.request_tools, mine.request_options = (), RequestOptions()
            if answer is not None:
                self._store_answer(mine, answer)
            session.cancel_approvals(mine)
            self._settle(mine)
        elif mine.row.state is not state:
            raise Fenced("the run is over")
        return self._following(session, mine.row.tenant)

    async def interrupt(
        self,
        owner: Owner,
        session: SessionId,
        run: RunId | None = None,
        *,
        message: MessageId | None = None,
        seen: Mapping[str, Any] | None = None,
    ) -> Interrupted:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        stored = found.message(message) if found is not None and message is not None else None
        if run is None and stored is not None and stored.run is not None:
            run = stored.run.row.id
        if run is None and (message is not None or found is None):
            self.database.store_early_stop(owner, self.database.key(owner, session), message)
            return Interrupted(None, interrupted=False, known=found is not None)
        if found is None:
            raise NotFound("there is no such session")
        mine = next((one for one in found.runs if one.row.id == run), None)
        if mine is None and run is not None:
            raise NotFound("there is no such run in the session")
        mine = found.interrupt(mine, seen)
        interrupted = mine is not None and mine.row.state not in TERMINAL
        return Interrupted(named_run(owner, mine.row) if mine is not None else None, interrupted)

    async def find_seen(self, run: RunId) -> dict[str, Any] | None:
        """See `RunStore`."""
        found = self.database.runs.get(run)
        return found.seen if found is not None else None

    async def find_calls(
        self, owner: Owner, call: CallId, session: SessionId | None = None
    ) -> Sequence[AskedCall]:
        """See `RunStore`."""
        asked = [
            one
            for one in reversed(self.database.approvals.values())
            if one.request.call == call
            and (session is None or one.run.row.session == self.database.key(owner, session))
            and self.database.find_run(owner, one.run.row.id) is not None
        ]
        asked.sort(key=lambda one: not one.pending)
        return [AskedCall(one.shown, named_run(owner, one.run.row)) for one in asked[:CALLS_MAX]]

    async def pending_approvals(
        self, owner: Owner, session: SessionId, ids: Sequence[ApprovalId] | None = None
    ) -> Sequence[Approval]:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        asked = found.approvals if found is not None else []
        return [one.shown for one in asked if (one.pending if ids is None else one.request.id in ids)]

    async def find_approval(self, owner: Owner, run: RunId, call: CallId) -> Approval | None:
        """See `RunStore`."""
        found = self.database.find_run(owner, run)
        asked = [
            one.shown
            for one in self.database.approvals.values()
            if one.run is found and one.request.call == call
        ]
        return asked[-1] if asked else None

    async def answered_calls(self, owner: Owner, session: SessionId) -> Sequence[AskedCall]:
        """See `RunStore`."""
        found = self.database.find_session(owner, session)
        return [
            AskedCall(one.shown, named_run(owner, one.run.row))
            for one in (found.approvals if found is not None else [])
            if one.decision is not None
            and one.run.row.state not in TERMINAL
            and one.turn >= one.run.row.turn - 1
        ]

    async def expire_approvals(self) -> Sequence[RunRequest]:
        """See `RunStore`."""
        due = [one for one in self.database.approvals.values() if one.due]
        for one in due:
            one.decision, one.expired = Decision(one.request.id, approved=False), True
            one.decided_at = now_utc()
        runs = {one.run.row.id: one.run for one in due}.values()
        for run in runs:
            self.database.session_of(run).resume(run)
        return [run.row.request for run in runs if run.row.state is State.QUEUED and run.row.ready]

    async def ping(self) -> None:
        """See `RunStore`."""
