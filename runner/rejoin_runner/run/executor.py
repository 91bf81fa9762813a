"""Carries out the actions of `decide` until the turn ends: the one place where each action has its effect.

Owns the loop, the start and end of the message, and the order at the end of a turn: the log is complete
before the database stores the result. `model_step` runs model steps, `tool_calls` approvals and tools,
`delegation` handoffs and delegations. It knows no broker and no acknowledgement.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, assert_never

import msgspec
from msgspec import UNSET

from rejoin_adapters.process.background import run_alongside
from rejoin_adapters.store_types import Approval, Decision
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import FinishReason
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.typed_output import STATE_KEY, find_faults
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Mark
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.agent.custom_loop import CRASH_ERROR
from rejoin_runner.models.model import Model
from rejoin_runner.next_action import decide
from rejoin_runner.next_action.agent_stack import ToolCall
from rejoin_runner.next_action.run_state import Phase, StepPhase, usage_of
from rejoin_runner.next_action.seen_part import cut_behind
from rejoin_runner.output.bounded_work import WorkEnd, run_bounded
from rejoin_runner.run import delegation, instrumentation, model_step, steering, tool_calls
from rejoin_runner.run.attempt import DEADLINE, Attempt
from rejoin_runner.run.status_updates import run_status_updates

INTERRUPTED = "The run was interrupted."
LIMIT_DETAILS = {
    "length": "The answer is cut off: it reached the limit of tokens.",
    "content-filter": "The answer ended early: the model provider's content filter stopped it.",
    "tool-calls": "The agent used up its {steps} steps and has not finished.",
}
"""The `finishDetail` of an answer that ended at a limit, by finish reason."""


class RunFailure(NamedTuple):
    """Why a run fails whatever its agent does."""

    code: str
    text: str


TOO_MANY_ATTEMPTS = RunFailure(
    "too_many_attempts", "The run failed: its runners stopped too often before it was complete."
)
LOG_EXPIRED = RunFailure("log_expired", "The run failed: it took longer than its log is kept.")


class HandedOver(Exception):
    """The run is between two steps, and another runner continues it: this one drains, or executes the run
    alone until it has made progress.
    """


class RunExecutor:
    """Carries out one turn of a run, in one attempt."""

    def __init__(
        self,
        attempt: Attempt,
        *,
        interrupted: asyncio.Future[None],
        draining: asyncio.Event,
        leaves_after_progress: bool = False,
        status_model: Model | None = None,
    ) -> None:
        claim, state = attempt.claim, attempt.state
        self._attempt = attempt
        self._run = claim.run
        self._state = state
        self._journal = attempt.journal
        self._status_model = status_model or attempt.model
        self._step_cut_off = state.step in {StepPhase.EMPTY, StepPhase.PARTIAL}
        """An earlier attempt crashed in the open step, and nothing has been done about it yet."""
        self._inputs = decide.DecisionInputs(
            turn=claim.run.turn,
            approvals={approval.request.call: approval for approval in claim.approvals},
            possibly_started=decide.possibly_started_calls(state),
            message_stored=claim.answer is not None,
        )
        self._steering: Sequence[MessageDict] | None = steering.fitting(attempt, claim.steering)
        """The messages that steer the run, see `DecisionInputs.steering`."""
        self._tasks = attempt.tasks
        self._interrupted = interrupted
        self._draining = draining
        self._leaves_at = state.progress + 1 if leaves_after_progress else None
        """The run is handed over before its next model call once it has made so much progress."""
        timeout_s = attempt.head.timeout_s
        self._deadline_s = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s

    async def execute(self) -> Sequence[RunRequest]:
        """Carry out the turn until the run ends or is suspended. Returns the requests to publish then.

        Raises `HandedOver` if the runner drains, and what journal and store raise (`Fenced`, `Unavailable`).
        """
        attempt, updates = self._attempt, self._attempt.head.status_updates
        background = [attempt.writer.run_timer()]
        if updates is not None:
            background.append(run_status_updates(attempt, updates, self._status_model))
        async with run_alongside(*background):
            next_requests = None
            while next_requests is None:
                next_requests = await self._carry_out(self._next_action())
        return next_requests

    async def fail(self, failure: RunFailure) -> None:
        """Complete the log with an error, whatever phase it is in. `execute` then stores the end."""
        state = self._state
        if state.ended or state.error is not None:
            return
        message_stored = self._inputs.message_stored and self._inputs.turn > 0
        if message_stored and state.phase in {Phase.NOT_STARTED, Phase.RESTORING}:
            await self._restore_message()  # without it the message would consist of its error alone
        if state.phase in {Phase.NOT_STARTED, Phase.SUSPENDED}:
            await self._emit_start()
        await self._attempt.fail(*failure)

    def _next_action(self) -> decide.Action:
        inputs = msgspec.structs.replace(
            self._inputs, interrupted=self._interrupted.done(), steering=self._steering
        )
        action = decide.next_action(self._state, inputs, self._policy())
        self._attempt.log.debug("action", action=type(action).__name__)
        return action

    def _policy(self) -> decide.Policy:
        """The policy of the active agent, which may be another one after each action."""
        attempt = self._attempt
        return decide.Policy(
            lambda call: tool_calls.needs_approval(attempt, call),
            lambda call: tool_calls.may_run_again(attempt, call),
            attempt.agent.max_steps,
            attempt.head.handoffs_max,
            attempt.head.delegation_depth_max,
            lambda call: tool_calls.runs_in_client(attempt, call),
            None if attempt.output is None else attempt.agent.output_retries,
            reads_steering=attempt.agent.custom_loop is None,
        )

    async def _carry_out(  # noqa: C901, PLR0912 - one arm for each action
        self, action: decide.Action
    ) -> Sequence[RunRequest] | None:
        """Carry out one action. Returns None while the turn goes on; at its end, the requests to publish."""
        attempt = self._attempt
        match action:
            case decide.StartMessage():
                await self._start_message()
            case decide.RestoreMessage():
                await self._restore_message()
            case decide.ContinueMessage():
                await self._emit_start()
            case decide.EmitDecisions(decisions):
                await tool_calls.emit_decisions(attempt, decisions)
            case decide.VoidStep():
                await self._void_step()
            case decide.CallModel():
                self._steering = None
                await self._call_model()
            case decide.CheckApprovals():
                await self._run_within_limits(tool_calls.check_approvals(attempt, action))
            case decide.FindSteering():
                self._steering = await steering.find(attempt)
            case decide.EmitSteering(messages):
                self._steering = None  # asked again, which tells the store what the log has
                await steering.emit(attempt, messages)
            case decide.RequestApprovals(calls):
                await tool_calls.request_approvals(attempt, calls)
            case decide.RequestOutputs(calls):
                self._note_requests(await tool_calls.request_outputs(attempt, calls))
            case decide.RunToolCalls():
                self._steering = None
                await self._run_within_limits(tool_calls.run_tool_calls(attempt, action))
            case decide.CompleteDelegation(call, complete):
                await delegation.complete_call(attempt, call, complete=complete)
            case decide.AbortRun(calls):
                await self._abort(calls)
            case decide.CloseStep():
                await attempt.emit(chunks.FinishStep())
            case decide.SuspendRun():
                await self._suspend()
            case decide.FinishMessage(reason):
                await self._finish_message(reason)
            case decide.FailOutput(reason):
                await attempt.fail("output_invalid", self._output_error(reason))
            case decide.ReleaseRun():
                return await self._release_run()
            case decide.RecordEnd(end):
                return await self._record_end(end)
            case _:
                assert_never(action)
        return None

    # ------------------------------------------------------------------------------------ the message

    async def _emit_start(self) -> None:
        await self._attempt.emit(chunks.Start(self._run.answer, self._start_metadata() or UNSET))

    def _start_metadata(self) -> dict[str, Any]:
        """What a reader of any response knows from its first event on."""
        names = {"agent": self._attempt.head.name} if self._attempt.names_agent else {}
        return names if self._attempt.output is None else {**names, STATE_KEY: "partial"}

    async def _start_message(self) -> None:
        attempt, session, agent = self._attempt, self._run.session, self._attempt.head.name
        await self._emit_start()
        await self._journal.begin_append()  # before the model's request is built
        await attempt.emit_operation("agent_initializing", sessionId=session, agentId=agent)
        await attempt.emit_operation("agent_ready", sessionId=session, agentId=agent)
        await attempt.emit_operation("agent_thinking", agent=agent, iteration=1)

    async def _restore_message(self) -> None:
        """Start a new log with the stored message, so that a client that reads all of the log gets all of
        the message.
        """
        self._journal.restart(self._run.turn - 1)  # the suspension at the end of this makes it `turn`
        first, *rest = unfold(self._attempt.claim.answer or {})
        await self._attempt.emit(first)
        # The first batch has the mark, so that a reader forgets the expired log before it reads on.
        self._journal.mark(Mark.RESTORED)
        for chunk in rest:
            await self._attempt.emit(chunk)
        await self._suspend()

    def _note_requests(self, requests: Sequence[Approval]) -> None:
        """No event of the log says that a client tool's call waits: clients see it from the call itself."""
        added = {one.request.call: one for one in requests}
        approvals = {**self._inputs.approvals, **added}
        self._inputs = msgspec.structs.replace(self._inputs, approvals=approvals)

    async def _suspend(self) -> None:
        if self._state.step_open:
            await self._attempt.emit(chunks.FinishStep())
        await self._attempt.emit(chunks.Finish("tool-calls", self._usage_metadata() or UNSET))
        self._journal.mark(Mark.SUSPENDED)

    async def _finish_message(self, reason: FinishReason) -> None:
        attempt = self._attempt
        if self._state.step_open:
            await attempt.emit(chunks.FinishStep())
        if not self._state.aborted and self._state.error is None:
            await attempt.emit_operation("completion", agent=attempt.head.name, iteration=self._state.steps)
        metadata = self._usage_metadata()
        if not self._state.aborted and (detail := LIMIT_DETAILS.get(reason)) is not None:
            metadata["finishDetail"] = detail.format(steps=attempt.agent.max_steps)
        await attempt.emit(chunks.Finish(reason, metadata or UNSET))
        self._journal.mark(Mark.ENDED)

    def _output_error(self, reason: FinishReason) -> str:
        """Why the run has no output."""
        if (detail := LIMIT_DETAILS.get(reason)) is not None:
            return detail.format(steps=self._attempt.agent.max_steps)
        faults = find_faults(self._state.message)
        why = faults[-1].error if faults else "it is no JSON object"
        count = f"{len(faults)} answers" if len(faults) > 1 else "The answer"
        return f"{count} of the model did not fit what the agent must return. The last one: {why}."

    def _usage_metadata(self) -> dict[str, Any]:
        """The message's token counts, repeated in `finish` for clients that read metadata only there."""
        usage = usage_of(self._state.message)
        return {"usage": dict(usage)} if usage else {}

    async def _abort(self, calls: Sequence[ToolCall]) -> None:
        """Give every open call a result, because a provider refuses a history with an open call."""
        attempt, state = self._attempt, self._state
        await attempt.writer.flush()
        for chunk in state.closing_chunks():
            await attempt.emit(chunk)
        await attempt.record_cut_off()
        for call in calls:
            approval = state.approval_ids.get(call.id)
            answered = approval in state.answered_approvals
            if approval is None or (answered and self._inputs.is_approved(call)):
                await attempt.emit(delegation.call_error(call, INTERRUPTED))  # its tool may have started
            else:
                if not answered:
                    denied = Decision(approval, approved=False, reason=INTERRUPTED)
                    await tool_calls.emit_decisions(attempt, [denied])
                await attempt.emit(chunks.ToolOutputDenied(tool_call_id=call.id))
        await attempt.emit(chunks.Abort(reason=INTERRUPTED))

    # --------------------------------------------------------------------------------------- the work

    async def _void_step(self) -> None:
        if self._step_cut_off and self._attempt.fails_after_crash:
            await self._fail_step_cut_off()
            return
        await self._attempt.emit(chunks.ResetStep())
        self._step_cut_off = False

    async def _call_model(self) -> None:
        # Between two steps the log is complete, so another runner continues without a void step.
        leaves = self._leaves_at is not None and self._state.progress >= self._leaves_at
        if (self._draining.is_set() or leaves) and not self._state.step_open:
            await self._attempt.writer.flush()
            await self._journal.wait_until_stored()
            raise HandedOver
        if self._step_cut_off and self._attempt.fails_after_crash:
            await self._fail_step_cut_off()
            return
        self._step_cut_off = False
        await self._run_within_limits(self._generate())

    async def _generate(self) -> None:
        with instrumentation.step(self._attempt):
            await model_step.generate(self._attempt)

    async def _fail_step_cut_off(self) -> None:
        self._step_cut_off = False
        await delegation.fail_step(self._attempt, "crashed", CRASH_ERROR)

    async def _run_within_limits(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the work until it ends, the user interrupts the run, or the run's deadline is over. An
        interrupt only stops the work; the next action is then `AbortRun`. A deadline fails the run.
        """
        if await run_bounded(work, self._tasks, self._interrupted, self._deadline_s) is WorkEnd.LATE:
            timeout_s = self._attempt.head.timeout_s
            await self._attempt.record_cut_off()
            await self._attempt.fail(DEADLINE, f"The run took longer than {timeout_s:g} seconds.")

    # ------------------------------------------------------------------------------- the turn's end

    async def _release_run(self) -> Sequence[RunRequest]:
        """Store the suspension. Returns the request of the next run, or of this run's next turn if its
        approvals were decided meanwhile.
        """
        await self._journal.wait_until_stored()
        run = self._run
        next_request = await self._attempt.store.suspend(run.id, run.attempt, self._state.message)
        self._attempt.metrics.run_entered_state(run.agent, State.SUSPENDED.value)
        return [next_request] if next_request is not None else []

    async def _record_end(self, end: State) -> Sequence[RunRequest]:
        """Store the run's end. Returns the request of the next run, if one waits."""
        await self._journal.wait_until_stored()
        run, state, store = self._run, self._state, self._attempt.store
        message = state.message
        if end is State.CANCELLED and (seen := await store.find_seen(run.id)) is not None:
            message = cut_behind(message, seen)
        next_request = await store.end(run.id, run.attempt, end, message, state.error, state.error_code)
        self._attempt.metrics.run_entered_state(run.agent, end.value)
        return [next_request] if next_request is not None else []
