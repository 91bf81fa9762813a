"""Does what the machine says, until the run is over or waits: the one executor of its actions.

Owns the order of effects: a call is in the log before its tool runs, a question in the database before it is
shown, and the log complete before the database hears of the end. It knows no broker and no acknowledgement.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

import msgspec
import structlog

from protocol import chunks
from protocol.adapters.ports import Claim, Decision, Question, Store
from protocol.chunks import Chunk
from protocol.commands import RunRequest
from protocol.ids import CallId, approval_id
from protocol.lifecycle import State
from protocol.log import Audience, Mark
from protocol.unfold import unfold
from runner import machine
from runner.agents import Agent
from runner.journal import Journal, TooLarge
from runner.models.port import Done, Model, ModelChunk, ModelError, ModelRequest
from runner.standing import Call, Standing, usage_of
from runner.tools import ToolContext, ToolError

UNKNOWN_OUTCOME = (
    "The outcome of this call is unknown: the worker that ran it went away before it could report. "
    "It may or may not have taken effect."
)
V7_CHUNKS = (chunks.ToolApprovalResponse, chunks.ResetStep)
DEADLINE = "deadline"
ERROR_CHARS_MAX = 16_384
INTERRUPTED = "The run was interrupted."
TOO_OFTEN = "The run was given up: its workers went away too often."
EXPIRED = "The run took longer than its log is kept. It was given up."


class Cancelled(Exception):
    """Something that a tool or a model waited for was cancelled, and not by us."""


class HandedOver(Exception):
    """This runner drains, and the run is between two steps: another one goes on."""


class Loop:
    """One attempt at one run."""

    def __init__(
        self,
        claim: Claim,
        agent: Agent,
        model: Model,
        store: Store,
        journal: Journal,
        standing: Standing,
        *,
        interrupted: asyncio.Event,
        draining: asyncio.Event,
        now_ms: Callable[[], int],
    ) -> None:
        self._claim = claim
        self._run = claim.run
        self._agent = agent
        self._model = model
        self._store = store
        self._journal = journal
        self._standing = standing
        self._now_ms = now_ms
        self._tools = agent.toolbox
        self._facts = machine.Facts(
            turn=claim.run.turn,
            approvals={approval.question.call: approval for approval in claim.approvals},
            inherited=machine.inherited(standing),
            stored=claim.answer is not None,
        )
        self._policy = machine.Policy(self._asks, self._retries, agent.steps_max)
        self._interrupted = interrupted
        self._draining = draining
        limit_s = agent.timeout_s
        self._deadline = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
        if claim.run.interrupted:
            interrupted.set()
        self._log = structlog.get_logger("rejoin.loop")

    async def go(self) -> list[RunRequest]:
        """Until the run is over or waits. Returns the requests that are to be published then."""
        while True:
            facts = msgspec.structs.replace(self._facts, interrupted=self._interrupted.is_set())
            action = machine.next_action(self._standing, facts, self._policy)
            self._log.debug("action", action=type(action).__name__)
            match action:
                case machine.Books(state):
                    return await self._end(state)
                case machine.Leave():
                    await self._journal.settle()
                    following = await self._store.suspend(
                        self._run.id, self._run.attempt, self._standing.message
                    )
                    return list(following)
                case machine.Generate() if self._draining.is_set() and not self._standing.step_open:
                    await self._journal.settle()
                    raise HandedOver
                case machine.Generate() | machine.Act():
                    await self._in_time(self._until_interrupted(self._do(action)))
                case _:
                    await self._do(action)

    async def _end(self, state: State) -> list[RunRequest]:
        await self._journal.settle()
        standing = self._standing
        following = await self._store.end(
            self._run.id, self._run.attempt, state, standing.message, standing.error
        )
        return [following] if following is not None else []

    async def _in_time(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await work
        except TimeoutError:
            await self._fail(DEADLINE, f"The run took longer than {self._agent.timeout_s:g} seconds.")

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
        standing = self._standing
        if standing.ended or standing.error is not None:
            return
        if self._facts.stored and self._facts.turn > 0 and (not standing.opened or standing.restoring):
            await self._restore()  # or the end would be all that is left of the message
        if not standing.opened or standing.suspended:
            await self._start()
        await self._fail("internal_error", text)

    async def _do(self, action: machine.Action) -> None:
        match action:
            case machine.Open():
                await self._open()
            case machine.Restore():
                await self._restore()
            case machine.Reopen():
                await self._start()
            case machine.Tell(decided):
                await self._tell(decided)
            case machine.Reset():
                await self._emit(chunks.ResetStep(), Audience.V7)
            case machine.Generate():
                await self._generate()
            case machine.Ask(calls):
                await self._ask(list(calls))
            case machine.Act():
                await self._act(action)
            case machine.Abort(calls):
                await self._abort(calls)
            case machine.CloseStep():
                await self._emit(chunks.FinishStep())
            case machine.Suspend():
                await self._suspend()
            case machine.Finish(reason):
                await self._finish(reason)
            case machine.Books() | machine.Leave():
                raise AssertionError("ends the loop")
            case _:
                assert_never(action)

    async def _emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        await self._journal.emit(chunk, audience)

    async def _operation(self, kind: str, **details: Any) -> None:
        await self._emit(chunks.Data(type="data-operation", data={"type": kind, "details": details}))

    # ------------------------------------------------------------------------------- begin and end

    async def _start(self) -> None:
        await self._emit(chunks.Start(message_id=self._run.answer))

    async def _open(self) -> None:
        await self._start()
        await self._operation("agent_initializing", sessionId=self._run.session, agentId=self._agent.name)
        await self._operation("agent_ready", sessionId=self._run.session, agentId=self._agent.name)

    async def _restore(self) -> None:
        """The stored message as a log: a reader who asks for all of it gets all of it."""
        self._journal.restart(self._run.turn - 1)
        first, *rest = unfold(self._claim.answer or {})
        await self._emit(first)
        self._journal.mark(Mark.RESTORED)
        for chunk in rest:
            await self._emit(chunk, Audience.V7 if isinstance(chunk, V7_CHUNKS) else Audience.ALL)
        await self._suspend()

    async def _suspend(self) -> None:
        if self._standing.step_open:
            await self._emit(chunks.FinishStep())
        await self._emit(chunks.Finish(finish_reason="tool-calls"))
        self._journal.mark(Mark.SUSPENDED)

    async def _tell(self, decided: Sequence[Decision]) -> None:
        for decision in decided:
            reason = msgspec.UNSET if decision.reason is None else decision.reason
            await self._emit(
                chunks.ToolApprovalResponse(
                    approval_id=decision.approval, approved=decision.approved, reason=reason
                ),
                Audience.V7,
            )

    async def _finish(self, reason: Any) -> None:
        if self._standing.step_open:
            await self._emit(chunks.FinishStep())
        if not self._standing.aborted and self._standing.error is None:
            await self._operation("completion", agent=self._agent.name, iteration=self._standing.steps)
        await self._emit(chunks.Finish(finish_reason=reason))
        self._journal.mark(Mark.ENDED)

    async def _abort(self, calls: Sequence[Call]) -> None:
        for chunk in self._standing.closing():
            await self._emit(chunk)
        for call in calls:
            approval = self._standing.asked.get(call.id)
            if approval is None:
                await self._emit(_error(call.id, INTERRUPTED))
            else:
                if approval not in self._standing.answered:
                    await self._tell([Decision(approval, approved=False, reason=INTERRUPTED)])
                await self._emit(chunks.ToolOutputDenied(tool_call_id=call.id))
        await self._emit(chunks.Abort(reason=INTERRUPTED))

    async def _fail(self, code: str, text: str) -> None:
        for chunk in self._standing.closing():
            await self._emit(chunk)
        data = {
            "type": "error",
            "message": text,
            "agent": self._agent.name,
            "severity": "error",
            "code": code,
            "timestamp": self._now_ms(),
        }
        await self._emit(chunks.Data(type="data-operation", data=data))
        await self._emit(chunks.Error(error_text=text))

    # ------------------------------------------------------------------------------------ the model

    async def _generate(self) -> None:
        if not self._standing.step_open:
            await self._emit(chunks.StartStep())
        request = ModelRequest(
            instructions=self._agent.instructions,
            history=self._claim.history,
            answer=self._standing.message,
            tools=[tool.spec for tool in self._agent.tools],
            step=self._standing.steps - 1,
        )
        limit_s = self._agent.step_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                await _own_cancellation(self._respond(request))
        except TimeoutError:  # ours: `_respond` names the model's own
            await self._fail(DEADLINE, f"The model took longer than {limit_s:g} seconds.")
        except Cancelled:
            await self._fail("model_error", "The model gave up.")
        except ModelError as fault:
            self._log.warning("model_failed", error=fault.detail)
            await self._fail("model_error", fault.detail)
        except TooLarge as fault:
            self._log.warning("event_too_large", error=str(fault))
            await self._fail("too_large", str(fault))
        else:
            self._journal.mark(Mark.GENERATED)

    async def _respond(self, request: ModelRequest) -> None:
        try:
            async with aclosing(self._model.stream(request)) as stream:
                async for item in stream:
                    if isinstance(item, Done):
                        await self._usage(item)
                    else:
                        await self._emit(self._own(item))
        except TimeoutError:
            raise ModelError("The model did not answer in time.") from None

    def _own(self, chunk: ModelChunk) -> Chunk:
        """A model's chunk in this message: ids that no earlier step has, arguments that fit."""
        step = self._standing.steps
        match chunk:
            case (
                chunks.TextStart(id=id)
                | chunks.TextDelta(id=id)
                | chunks.TextEnd(id=id)
                | chunks.ReasoningStart(id=id)
                | chunks.ReasoningDelta(id=id)
                | chunks.ReasoningEnd(id=id)
            ):
                return msgspec.structs.replace(chunk, id=f"{step}.{id}")
            case chunks.ToolInputStart(tool_call_id=id) | chunks.ToolInputDelta(tool_call_id=id):
                return msgspec.structs.replace(chunk, tool_call_id=self._call_id(id))
            case chunks.ToolInputAvailable(tool_call_id=id, tool_name=name, input=input):
                own = self._call_id(id)
                fault = self._misfit(name, input)
                if fault is None:
                    return msgspec.structs.replace(chunk, tool_call_id=own)
                return chunks.ToolInputError(tool_call_id=own, tool_name=name, input=input, error_text=fault)
            case _:
                return chunk

    def _call_id(self, id: str) -> str:
        return f"{self._standing.steps}.{id}" if CallId(id) in self._standing.past else id

    def _misfit(self, name: str, input: Any) -> str | None:
        tool = self._tools.get(name)
        if tool is None:
            return f"there is no tool {name}; there are: {', '.join(self._tools) or 'none'}"
        try:
            tool.check(input)
        except ToolError as fault:
            return str(fault)
        return None

    async def _usage(self, done: Done) -> None:
        before = usage_of(self._standing.message)
        total = {
            "inputTokens": before.get("inputTokens", 0) + done.usage.input_tokens,
            "outputTokens": before.get("outputTokens", 0) + done.usage.output_tokens,
        }
        await self._emit(chunks.MessageMetadata(message_metadata={"usage": total}))

    # -------------------------------------------------------------------------------------- tools

    def _context(self, call: Call) -> ToolContext[None]:
        return ToolContext(self._run.id, self._run.session, call.id, None)

    def _asks(self, call: Call) -> bool:
        tool = self._tools.get(call.tool)
        return tool is not None and self._agent.asks(tool, call.input, self._context(call))

    def _retries(self, call: Call) -> bool:
        tool = self._tools.get(call.tool)
        return tool is None or self._agent.retries(tool)

    async def _ask(self, calls: list[Call]) -> None:
        first = self._standing.questions
        limit_s = self._agent.approval_timeout_s
        now = datetime.fromtimestamp(self._now_ms() / 1_000, UTC)
        expires_at = None if limit_s is None else now + timedelta(seconds=limit_s)
        questions = [
            Question(approval_id(self._run.id, number), call.id, call.tool, call.input, expires_at)
            for number, call in enumerate(calls, first)
        ]
        await self._journal.settle()
        await self._store.ask(self._run.id, self._run.attempt, questions)
        for question in questions:
            await self._emit(chunks.ToolApprovalRequest(approval_id=question.id, tool_call_id=question.call))

    async def _act(self, act: machine.Act) -> None:
        for call, _ in act.deny:
            await self._emit(chunks.ToolOutputDenied(tool_call_id=call.id))
        for call in act.unknown:
            await self._emit(chunks.ToolOutputError(tool_call_id=call.id, error_text=UNKNOWN_OUTCOME))
        if not all(self._retries(call) for call in act.run):
            self._journal.mark(Mark.CALLING)
        await self._journal.settle()
        async with asyncio.TaskGroup() as group:
            for call in act.run:
                group.create_task(self._call(call))

    async def _call(self, call: Call) -> None:
        text = await self._result(call)
        await self._emit(text)

    async def _result(self, call: Call) -> Chunk:
        tool = self._tools.get(call.tool)
        log = self._log.bind(tool=call.tool, call=call.id)
        if tool is None:
            return _error(call.id, f"there is no tool {call.tool}")
        try:
            output = await _own_cancellation(tool.run(self._frozen(call), self._context(call)))
        except ToolError as fault:
            return _error(call.id, str(fault))
        except TimeoutError:
            return _error(call.id, "the tool took too long")
        except (Cancelled, SystemExit) as fault:
            log.warning("tool_gave_up", why=type(fault).__name__)
            return _error(call.id, "the tool gave up")
        except Exception as fault:
            log.exception("tool_failed")
            return _error(call.id, f"the tool failed ({type(fault).__name__})")
        return chunks.ToolOutputAvailable(tool_call_id=call.id, output=output)

    def _frozen(self, call: Call) -> Any:
        """What the person saw, where one was asked; what the log says otherwise."""
        approval = self._facts.approvals.get(call.id)
        return call.input if approval is None else approval.question.input


async def _own_cancellation[T](work: Coroutine[Any, Any, T]) -> T:
    """The work. Raises `Cancelled` if it was cancelled by anybody but us: then it is over, and we are not."""
    try:
        return await work
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise Cancelled from None


def _error(call: CallId, text: str) -> Chunk:
    return chunks.ToolOutputError(tool_call_id=call, error_text=text[:ERROR_CHARS_MAX])
