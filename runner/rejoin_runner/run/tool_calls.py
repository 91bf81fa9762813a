"""Questions to people, calls of tools, and the results of both.

Owns the order of their effects: a question is in the database before it is shown, a call in the log before
its tool runs, and what must not be repeated is marked before it is begun.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
from rejoin_adapters.records import ApprovalRequest, Decision
from rejoin_protocol.errors import Fenced
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import approval_id
from rejoin_protocol.log.record import Audience, Mark

from rejoin_runner.decision import decide
from rejoin_runner.decision.agent_stack import ToolCall
from rejoin_runner.run import delegation, instrumentation
from rejoin_runner.run.attempt import Attempt, ForeignCancellation, own_cancellation
from rejoin_runner.run.call_output import LoggedCallOutput
from rejoin_runner.tools.output_port import CallOutput
from rejoin_runner.tools.tool import ToolError
from rejoin_runner.tools.tool_context import ToolContext

TASK = "tool "
"""What the names of the tasks begin with that wait for tools."""
UNKNOWN_OUTCOME = (
    "The outcome of this call is unknown: the worker that ran it went away before it could report. "
    "It may or may not have taken effect."
)


def asks(attempt: Attempt, call: ToolCall) -> bool:
    """Whether a call needs a person's word. It does if the application fails to tell."""
    tool = attempt.tools.get(call.tool)
    if tool is None:
        return False
    try:
        return attempt.agent.needs_approval_for(tool, call.input, _context(attempt, call))
    except Exception:
        attempt.log.exception("needs_approval_failed", tool=call.tool)
        return True


def retries(attempt: Attempt, call: ToolCall) -> bool:
    """Whether a call that a dead worker may have begun is made again."""
    tool = attempt.tools.get(call.tool)
    return tool is None or attempt.agent.retries_after_crash(tool)


async def ask(attempt: Attempt, calls: Sequence[ToolCall]) -> None:
    """Store questions and show them."""
    limit_s = attempt.agent.approval_timeout_s
    now = datetime.fromtimestamp(attempt.now_ms() / 1_000, UTC)
    expires_at = None if limit_s is None else now + timedelta(seconds=limit_s)
    run = attempt.run
    stored = {approval.request.call: approval.request.id for approval in attempt.claim.approvals}
    fresh = count(max(attempt.state.questions, len(stored)))  # a dead attempt may have asked
    questions = [
        ApprovalRequest(
            stored.get(call.id) or approval_id(run.id, next(fresh)),
            call.id,
            call.tool,
            call.input,
            expires_at,
        )
        for call in calls
    ]
    await attempt.journal.settle()
    await attempt.store.request_approvals(run.id, run.attempt, questions)
    for question in questions:
        await attempt.emit(chunks.ToolApprovalRequest(approval_id=question.id, tool_call_id=question.call))


async def tell(attempt: Attempt, decided: Sequence[Decision]) -> None:
    """Say what was decided."""
    for decision in decided:
        reason = msgspec.UNSET if decision.reason is None else decision.reason
        await attempt.emit(
            chunks.ToolApprovalResponse(
                approval_id=decision.approval, approved=decision.approved, reason=reason
            ),
            Audience.V7,
        )


async def act(attempt: Attempt, act: decide.RunToolCalls) -> None:
    """Give calls their results."""
    for call, _ in act.deny:
        instrumentation.told(attempt, call, "denied")
        await attempt.emit(chunks.ToolOutputDenied(tool_call_id=call.id))
    for call in act.unknown:
        instrumentation.told(attempt, call, "unknown")
        await attempt.emit(delegation.error(call, UNKNOWN_OUTCOME))
    for call, reason in act.refuse:
        await attempt.emit(delegation.error(call, reason))
    for call in act.run:  # before the mark: behind it every append is one at which the outcome is unknown
        await attempt.emit_detail("tool_call", f"Calls {call.tool}", **_named(call))
    if not all(retries(attempt, call) for call in act.run):
        attempt.journal.mark(Mark.CALLING)
    await attempt.journal.settle()
    async with asyncio.TaskGroup() as group:
        for call in act.run:
            group.create_task(_call(attempt, call), name=TASK + call.tool)


async def _call(attempt: Attempt, call: ToolCall) -> None:
    result = await instrumentation.tool(attempt, call, _spoken(attempt, call))
    if isinstance(result, chunks.ToolOutputAvailable):
        await delegation.transfer(attempt, call)
    await attempt.emit(result)
    ok = isinstance(result, chunks.ToolOutputAvailable)
    await attempt.emit_detail("tool_result", f"{call.tool} answered", **_named(call), success=ok)


def _named(call: ToolCall) -> dict[str, str]:
    return {"toolCallId": call.id, "toolName": call.tool}


async def _spoken(attempt: Attempt, call: ToolCall) -> Chunk:
    """The result of a call that may speak while it lasts, and no longer."""
    voice = LoggedCallOutput(attempt, call.id)
    try:
        return await _result(attempt, call, _context(attempt, call, voice))
    finally:
        voice.close()


async def _result(attempt: Attempt, call: ToolCall, context: ToolContext[Any]) -> Chunk:
    tool = attempt.tools.get(call.tool)
    log = attempt.log.bind(tool=call.tool, call=call.id)
    if tool is None:
        return delegation.error(call, f"there is no tool {call.tool}")
    try:
        output = await own_cancellation(tool.call(_frozen(attempt, call), context))
    except ToolError as fault:
        return delegation.error(call, str(fault))
    except TimeoutError:
        return delegation.error(call, "the tool took too long")
    except (ForeignCancellation, SystemExit) as fault:
        log.warning("tool_cancelled_itself", why=type(fault).__name__)
        return delegation.error(call, "the tool gave up")
    except Fenced:
        raise
    except Exception as fault:
        log.exception("tool_failed")
        return delegation.error(call, f"the tool failed ({type(fault).__name__})")
    return chunks.ToolOutputAvailable(tool_call_id=call.id, output=output)


def _context(attempt: Attempt, call: ToolCall, voice: CallOutput | None = None) -> ToolContext[Any]:
    return ToolContext(attempt.run.id, attempt.run.session, call.id, attempt.context, output=voice)


def _frozen(attempt: Attempt, call: ToolCall) -> Any:
    """What the person saw, where one was asked; what the log says otherwise."""
    for approval in attempt.claim.approvals:
        if approval.request.call == call.id:
            return approval.request.input
    return call.input
