"""Does what the machine says, until the run is over or waits: the one executor of its actions.

Owns the run's beginning and its end, and that the log is complete before the database hears of the end; what
is between them is `respond`'s and `acting`'s. It knows no broker and no acknowledgement.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, assert_never

import msgspec
from msgspec import UNSET
from rejoin_adapters.records import Decision
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.events import chunks
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Audience, Mark
from rejoin_protocol.run_request import RunRequest

from rejoin_runner.agent.custom_loop import CRASH_ERROR
from rejoin_runner.decision import decide
from rejoin_runner.decision.agent_stack import ToolCall
from rejoin_runner.decision.run_state import usage_of
from rejoin_runner.models.model import Model
from rejoin_runner.run import delegation, instrumentation, model_step, tool_calls
from rejoin_runner.run.attempt import DEADLINE, Attempt
from rejoin_runner.run.status_updates import run_status_updates

V7_CHUNKS = (chunks.ToolApprovalResponse, chunks.ResetStep)
INTERRUPTED = "The run was interrupted."
TOO_OFTEN = "The run was given up: its workers went away too often."
EXPIRED = "The run took longer than its log is kept. It was given up."


class HandedOver(Exception):
    """This runner drains, and the run is between two steps: another one goes on."""


class RunExecutor:
    """One attempt at one run."""

    def __init__(
        self,
        attempt: Attempt,
        *,
        interrupted: asyncio.Event,
        draining: asyncio.Event,
        status_model: Model | None = None,
    ) -> None:
        claim, state = attempt.claim, attempt.state
        self._attempt = attempt
        self._status_model = status_model
        self._step_cut_off = state.step_open and not state.generated  # an earlier attempt was in the middle
        self._run = claim.run
        self._state = state
        self._journal = attempt.journal
        self._inputs = decide.DecisionInputs(
            turn=claim.run.turn,
            approvals={approval.request.call: approval for approval in claim.approvals},
            inherited=decide.inherited(state),
            stored=claim.answer is not None,
        )
        self._interrupted = interrupted
        self._draining = draining
        limit_s = attempt.head.timeout_s
        self._deadline = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
        if claim.run.interrupted:
            interrupted.set()

    async def execute(self) -> list[RunRequest]:
        """Until the run is over or waits. Returns the requests that are to be published then."""
        attempt, updates = self._attempt, self._attempt.head.status_updates
        work = [attempt.writer.run_timer()]
        if updates is not None:
            work.append(run_status_updates(attempt, updates, self._status_model or attempt.model))
        async with run_alongside(*work):
            return await self._until_over()
        raise AssertionError("`run_alongside` swallows nothing")

    async def _until_over(self) -> list[RunRequest]:
        while True:
            inputs = msgspec.structs.replace(self._inputs, interrupted=self._interrupted.is_set())
            action = decide.next_action(self._state, inputs, self._policy())
            self._attempt.log.debug("action", action=type(action).__name__)
            match action:
                case decide.RecordEnd(end):
                    return await self._end(end)
                case decide.ReleaseRun():
                    return await self._leave()
                case decide.CallModel() if self._draining.is_set() and not self._state.step_open:
                    await self._attempt.writer.flush()
                    await self._journal.settle()
                    raise HandedOver
                case decide.CompleteDelegation(call, complete):
                    await delegation.hand_back(self._attempt, call, complete=complete)
                case decide.CallModel() | decide.VoidStep() if (
                    self._step_cut_off and self._attempt.fails_after_crash
                ):
                    self._step_cut_off = False
                    await delegation.fail(self._attempt, "crashed", CRASH_ERROR)
                case decide.CallModel() | decide.RunToolCalls():
                    await self._in_time(self._until_interrupted(self._do(action)))
                case _:
                    await self._do(action)

    def _policy(self) -> decide.Policy:
        attempt = self._attempt
        return decide.Policy(
            lambda call: tool_calls.asks(attempt, call),
            lambda call: tool_calls.retries(attempt, call),
            attempt.agent.max_steps,
            attempt.head.handoffs_max,
            attempt.head.delegation_depth_max,
        )

    async def _end(self, end: State) -> list[RunRequest]:
        await self._journal.settle()
        state = self._state
        following = await self._attempt.store.end(
            self._run.id, self._run.attempt, end, state.message, state.error
        )
        self._attempt.metrics.became(self._run.agent, end.value)
        return [following] if following is not None else []

    async def _leave(self) -> list[RunRequest]:
        await self._journal.settle()
        run = self._run
        following = await self._attempt.store.suspend(run.id, run.attempt, self._state.message)
        self._attempt.metrics.became(run.agent, State.SUSPENDED.value)
        return list(following)

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await work
        except TimeoutError:
            limit_s = self._attempt.head.timeout_s
            await self._attempt.fail(DEADLINE, f"The run took longer than {limit_s:g} seconds.")

    async def _until_interrupted(self, work: Coroutine[Any, Any, None]) -> None:
        """The work, or as much of it as there was time for."""
        async with asyncio.TaskGroup() as group:
            task = group.create_task(work)
            watch = group.create_task(self._cancel_when_interrupted(task))
            await asyncio.wait([task])
            watch.cancel()

    async def _cancel_when_interrupted(self, task: asyncio.Task[None]) -> None:
        await self._interrupted.wait()
        task.cancel()

    async def fail(self, text: str) -> None:
        """End the log with an error, whatever it says so far; `go` then does the books."""
        state = self._state
        if state.ended or state.error is not None:
            return
        if self._inputs.stored and self._inputs.turn > 0 and (not state.opened or state.restoring):
            await self._restore()  # or the end would be all that is left of the message
        if not state.opened or state.suspended:
            await self._start()
        await self._attempt.fail("internal_error", text)

    async def _do(self, action: decide.Action) -> None:
        attempt = self._attempt
        match action:
            case decide.StartMessage():
                await self._open()
            case decide.RestoreMessage():
                await self._restore()
            case decide.ContinueMessage():
                await self._start()
            case decide.EmitDecisions(decided):
                await tool_calls.tell(attempt, decided)
            case decide.VoidStep():
                await attempt.emit(chunks.ResetStep(), Audience.V7)
                self._step_cut_off = False
            case decide.CallModel():
                with instrumentation.step(attempt):
                    await model_step.generate(attempt)
            case decide.RequestApprovals(calls):
                await tool_calls.ask(attempt, calls)
            case decide.RunToolCalls():
                await tool_calls.act(attempt, action)
            case decide.AbortRun(calls):
                await self._abort(calls)
            case decide.CloseStep():
                await attempt.emit(chunks.FinishStep())
            case decide.SuspendRun():
                await self._suspend()
            case decide.FinishMessage(reason):
                await self._finish(reason)
            case decide.RecordEnd() | decide.ReleaseRun() | decide.CompleteDelegation():
                raise AssertionError("is done by `go`")
            case _:
                assert_never(action)

    async def _start(self) -> None:
        await self._attempt.emit(chunks.Start(message_id=self._run.answer))

    async def _open(self) -> None:
        await self._start()
        session, agent = self._run.session, self._attempt.head.name
        await self._attempt.emit_operation("agent_initializing", sessionId=session, agentId=agent)
        await self._attempt.emit_operation("agent_ready", sessionId=session, agentId=agent)
        await self._attempt.emit_operation("agent_thinking", agent=agent, iteration=1)

    async def _restore(self) -> None:
        """The stored message as a log: a reader who asks for all of it gets all of it."""
        self._journal.restart(self._run.turn - 1)
        first, *rest = unfold(self._attempt.claim.answer or {})
        await self._attempt.emit(first)
        self._journal.mark(Mark.RESTORED)
        for chunk in rest:
            await self._attempt.emit(chunk, Audience.V7 if isinstance(chunk, V7_CHUNKS) else Audience.ALL)
        await self._suspend()

    async def _suspend(self) -> None:
        if self._state.step_open:
            await self._attempt.emit(chunks.FinishStep())
        await self._attempt.emit(chunks.Finish("tool-calls", self._spent))
        self._journal.mark(Mark.SUSPENDED)

    async def _finish(self, reason: Any) -> None:
        attempt = self._attempt
        if self._state.step_open:
            await attempt.emit(chunks.FinishStep())
        if not self._state.aborted and self._state.error is None:
            await attempt.emit_operation("completion", agent=attempt.head.name, iteration=self._state.steps)
        await attempt.emit(chunks.Finish(reason, self._spent))
        self._journal.mark(Mark.ENDED)

    @property
    def _spent(self) -> Any:
        """What the message's metadata says of its usage, said again where a client looks at the end only."""
        usage = usage_of(self._state.message)
        return {"usage": dict(usage)} if usage else UNSET

    async def _abort(self, calls: Sequence[ToolCall]) -> None:
        attempt = self._attempt
        await attempt.writer.flush()
        for chunk in self._state.closing():
            await attempt.emit(chunk)
        for call in calls:
            approval = self._state.asked.get(call.id)
            answered = approval in self._state.answered
            if approval is None or (answered and self._inputs.approved(call)):
                await attempt.emit(delegation.error(call, INTERRUPTED))  # it may have begun
            else:
                if not answered:
                    await tool_calls.tell(attempt, [Decision(approval, approved=False, reason=INTERRUPTED)])
                await attempt.emit(chunks.ToolOutputDenied(tool_call_id=call.id))
        await attempt.emit(chunks.Abort(reason=INTERRUPTED))
