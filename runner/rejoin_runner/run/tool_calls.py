"""Approval requests, tool calls, and the results of both.

Owns the order of their effects. An approval request is in the database before a client sees it. A call is in
the log before its tool runs. The mark `CALLING` is in the log before a tool runs that must not run twice.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from rejoin_adapters.answer_events import CLIENT_FAILED, edit_event, response_event
from rejoin_adapters.process.exception_report import log_exception
from rejoin_adapters.store_types import Approval, ApprovalRequest, Decision, RequestKind
from rejoin_protocol.errors import Fenced
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import Part, is_tool
from rejoin_protocol.ids import ApprovalId, CallId, approval_id
from rejoin_protocol.log.record import Mark
from rejoin_runner.application_code import ApplicationGaveUp, RunningCode, application_code
from rejoin_runner.next_action import decide
from rejoin_runner.next_action.agent_stack import ToolCall
from rejoin_runner.output.bounded_work import run_in_time
from rejoin_runner.output.journal import EventTooLarge
from rejoin_runner.run import delegation, instrumentation, run_inputs
from rejoin_runner.run.attempt import Attempt
from rejoin_runner.run.call_output import LoggedCallOutput
from rejoin_runner.tools.client_tool import ClientTool
from rejoin_runner.tools.output_port import CallOutput
from rejoin_runner.tools.tool_context import CallApproval, ToolContext
from rejoin_runner.tools.tool_error import ToolError

TASK_PREFIX = "tool "
"""The name of a task that waits for a tool is this and the tool's name."""
RULE_TIMEOUT_S = 30.0
"""For a function that says whether a call needs an approval. After that, the call needs one."""
UNKNOWN_OUTCOME = (
    "The outcome of this call is unknown: its runner stopped before the call returned. "
    "It may or may not have taken effect."
)


def needs_approval(attempt: Attempt, call: ToolCall) -> bool | None:
    """Whether a person must approve the call. None: a function of the application decides."""
    tool = attempt.tools.get(call.tool)
    policy = False if tool is None else attempt.agent.approval_policy(tool)
    return policy if isinstance(policy, bool) else None


def may_run_again(attempt: Attempt, call: ToolCall) -> bool:
    """Whether a call that an earlier attempt may have started runs again."""
    tool = attempt.tools.get(call.tool)
    return tool is None or attempt.agent.retries_after_crash(tool)


def runs_in_client(attempt: Attempt, call: ToolCall) -> bool:
    """Whether the client runs the call's tool. A call whose arguments do not fit is not for the client."""
    return isinstance(attempt.tools.get(call.tool), ClientTool) and _fits(attempt, call)


def _fits(attempt: Attempt, call: ToolCall) -> bool:
    try:
        attempt.tools[call.tool].check_arguments(call.input)
    except ToolError:
        return False
    return True


async def check_approvals(attempt: Attempt, action: decide.CheckApprovals) -> None:
    """Ask the application's functions whether the calls need an approval, all at the same time, and log the
    answers: a request for each call that needs one, then the mark for the others. Raises `Fenced`.
    """
    known = {call.id for call in action.needing}
    async with asyncio.TaskGroup() as group:
        rules = {
            call.id: group.create_task(_ask_rule(attempt, call), name=TASK_PREFIX + call.tool)
            for call in action.calls
            if call.id not in known
        }
    needing = [call for call in action.calls if call.id in known or rules[call.id].result()]
    if needing:
        await request_approvals(attempt, needing)
    attempt.journal.mark(Mark.CHECKED)
    await attempt.journal.wait_until_stored()


async def _ask_rule(attempt: Attempt, call: ToolCall) -> bool:
    """Whether the call needs an approval. True if the application's function does not say it in time."""
    try:
        return await run_in_time(_call_rule(attempt, call), attempt.tasks, RULE_TIMEOUT_S)
    except Exception as fault:  # noqa: BLE001 - the application's
        log_exception(attempt.log, "needs_approval_failed", fault, tool=call.tool)
        return True


async def _call_rule(attempt: Attempt, call: ToolCall) -> bool:
    # The edge is inside of the task that `run_in_time` starts: what passes it would end the event loop.
    code = RunningCode(f"the approval rule of the tool {call.tool}", call.id)
    with application_code(code):
        async with asyncio.timeout(RULE_TIMEOUT_S):
            tool, context = attempt.tools[call.tool], _tool_context(attempt, call)
            return await attempt.agent.needs_approval_for(tool, call.input, context)


async def request_approvals(attempt: Attempt, calls: Sequence[ToolCall]) -> None:
    """Store an approval request for each call, then emit the requests. Raises `Fenced`."""
    for request in await _store_requests(attempt, calls, "approval"):
        await attempt.emit(chunks.ToolApprovalRequest(approval_id=request.id, tool_call_id=request.call))


async def request_outputs(attempt: Attempt, calls: Sequence[ToolCall]) -> Sequence[Approval]:
    """Store that the calls wait for a client's outputs. Returns the requests as stored. Raises `Fenced`."""
    requests = await _store_requests(attempt, calls, "tool-output")
    return [Approval(request, None, attempt.run.turn) for request in requests]


async def _store_requests(
    attempt: Attempt, calls: Sequence[ToolCall], kind: RequestKind
) -> Sequence[ApprovalRequest]:
    timeout_s = attempt.agent.approval_timeout_s
    now = datetime.fromtimestamp(attempt.now_ms() / 1_000, UTC)
    expires_at = None if timeout_s is None else now + timedelta(seconds=timeout_s)
    run = attempt.run
    # An earlier attempt may have stored requests and crashed before it emitted them. Those keep their ids,
    # and new requests must not take these ids.
    stored = {approval.request.call: approval.request.id for approval in attempt.claim.approvals}
    numbers = count(attempt.requests_stored)
    requests = [
        ApprovalRequest(
            stored.get(call.id) or approval_id(run.id, next(numbers)),
            call.id,
            call.tool,
            call.input,
            expires_at,
            kind,
            _output_schema(attempt, call),
            _edit_schema(attempt, call) if kind == "approval" else None,
        )
        for call in calls
    ]
    await attempt.journal.wait_until_stored()
    await attempt.store.request_approvals(run.id, run.attempt, requests)
    attempt.requests_stored = next(numbers)
    return requests


def _output_schema(attempt: Attempt, call: ToolCall) -> dict[str, Any] | None:
    tool = attempt.tools.get(call.tool)
    return tool.output_schema if isinstance(tool, ClientTool) else None


def _edit_schema(attempt: Attempt, call: ToolCall) -> dict[str, Any] | None:
    tool = attempt.tools.get(call.tool)
    return tool.spec.input_schema if tool is not None and tool.approval_edits else None


async def emit_decisions(attempt: Attempt, decisions: Sequence[Decision]) -> None:
    """Emit the decisions about approvals, which clients that know AI SDK 7 receive. The input of a call whose
    arguments were changed is emitted again, for all clients.
    """
    for decision in decisions:
        # First, so that a crash between the two repeats it: the decision is in the log behind everything that
        # belongs to it.
        if decision.input is not None:
            await _emit_edit(attempt, decision)
        await attempt.emit(response_event(decision))


async def _emit_edit(attempt: Attempt, decision: Decision) -> None:
    approval = _find_approval(attempt, decision.approval)
    if approval is None:
        return
    try:
        await attempt.emit(edit_event(approval, decision, _part_of(attempt, approval.request.call)))
    except EventTooLarge as fault:
        await attempt.fail("too_large", str(fault))


def _find_approval(attempt: Attempt, id: ApprovalId) -> Approval | None:
    return next((one for one in attempt.claim.approvals if one.request.id == id), None)


def _part_of(attempt: Attempt, call: CallId) -> Part:
    parts = attempt.state.message["parts"]
    return next(part for part in reversed(parts) if is_tool(part) and part["toolCallId"] == call)


async def run_tool_calls(attempt: Attempt, action: decide.RunToolCalls) -> None:
    """Give each call of the action its result. Calls that run do so at the same time."""
    for call, _ in action.deny:
        instrumentation.record_call(attempt, call, "denied")
        await attempt.emit(chunks.ToolOutputDenied(tool_call_id=call.id))
    for call in action.unknown:
        instrumentation.record_call(attempt, call, "unknown")
        await attempt.emit(delegation.call_error(call, UNKNOWN_OUTCOME))
    for call, error in action.refuse:
        await attempt.emit(delegation.call_error(call, error))
    for call, answer in action.answered:
        await _emit_client_output(attempt, call, answer)
    # Before the mark: a crash at any append after the mark makes the outcome of the calls unknown.
    for call in action.run:
        await attempt.emit_detail("tool_call", f"Calls {call.tool}", **_call_data(call), input=call.input)
    if not all(may_run_again(attempt, call) for call in action.run):
        attempt.journal.mark(Mark.CALLING)
    await attempt.journal.wait_until_stored()
    async with asyncio.TaskGroup() as group:
        for call in action.run:
            group.create_task(_run_call(attempt, call), name=TASK_PREFIX + call.tool)


async def _emit_client_output(attempt: Attempt, call: ToolCall, answer: Decision) -> None:
    instrumentation.record_call(attempt, call, "client")
    if answer.approved:
        await attempt.emit(chunks.ToolOutputAvailable(tool_call_id=call.id, output=answer.output))
    else:
        await attempt.emit(delegation.call_error(call, answer.reason or CLIENT_FAILED))


async def _run_call(attempt: Attempt, call: ToolCall) -> None:
    result = await instrumentation.trace_call(attempt, call, _call_with_output(attempt, call))
    succeeded = isinstance(result, chunks.ToolOutputAvailable)
    if succeeded:
        await delegation.emit_handoff(attempt, call)
    try:
        await attempt.emit(result)
    except EventTooLarge as fault:
        succeeded, result = False, delegation.call_error(call, str(fault))
        await attempt.emit(result)
    data = _call_data(call) | {"success": succeeded} | _result_data(result)
    await attempt.emit_detail("tool_result", f"{call.tool} answered", **data)


def _call_data(call: ToolCall) -> dict[str, Any]:
    return {"toolCallId": call.id, "toolName": call.tool}


def _result_data(result: Chunk) -> dict[str, Any]:
    match result:
        case chunks.ToolOutputAvailable(output=output):
            return {"output": output}
        case chunks.ToolOutputError(error_text=text):
            return {"output": None, "error": text}
        case _:
            return {}


async def _call_with_output(attempt: Attempt, call: ToolCall) -> Chunk:
    """Run a call with an output that is closed when the call returns."""
    output = LoggedCallOutput(attempt, call.id)
    try:
        return await _call_tool(attempt, call, _tool_context(attempt, call, output))
    finally:
        output.close()


async def _call_tool(attempt: Attempt, call: ToolCall, context: ToolContext[Any]) -> Chunk:
    """Call the tool. Every failure of the tool is a result for the model, never the run's failure."""
    tool = attempt.tools.get(call.tool)
    log = attempt.log.bind(tool=call.tool, call=call.id)
    if tool is None:
        return delegation.call_error(call, f"there is no tool {call.tool}")
    try:
        with application_code(RunningCode(f"the tool {call.tool}", call.id)):
            if isinstance(tool, ClientTool):
                tool.check_arguments(call.input)  # raises: a call that fits went to the client
            work = tool.call(_approved_input(attempt, call), context)
            output = await run_in_time(work, attempt.tasks, tool.timeout_s)
    except ToolError as fault:
        return delegation.call_error(call, str(fault))
    except TimeoutError:
        return delegation.call_error(call, "the tool took too long")
    except ApplicationGaveUp as fault:
        log_exception(log, "tool_gave_up", fault)
        return delegation.call_error(call, "the tool gave up")
    except Fenced:
        raise
    except Exception as fault:  # noqa: BLE001 - the application's
        log_exception(log, "tool_failed", fault)
        return delegation.call_error(call, f"the tool failed ({type(fault).__name__})")
    return chunks.ToolOutputAvailable(tool_call_id=call.id, output=output)


def _tool_context(attempt: Attempt, call: ToolCall, output: CallOutput | None = None) -> ToolContext[Any]:
    return ToolContext(
        attempt.run.id,
        attempt.run.session,
        call.id,
        attempt.context,
        run_inputs.user_data(attempt.claim),
        _call_approval(attempt, call),
        output=output,
    )


def _approved_input(attempt: Attempt, call: ToolCall) -> Any:
    """The arguments that the person has approved, if the call has an approval: the arguments as they were
    shown, or as the person changed them. Else the input in the log.
    """
    approval = _approval_of(attempt, call)
    if approval is None:
        return call.input
    decision = approval.decision
    return approval.request.input if decision is None or decision.input is None else decision.input


def _call_approval(attempt: Attempt, call: ToolCall) -> CallApproval | None:
    approval = _approval_of(attempt, call)
    if approval is None or approval.decision is None or approval.decided_at is None:
        return None
    request, decision = approval.request, approval.decision
    shown = None if decision.input is None else request.input
    return CallApproval(request.id, decision.by, approval.decided_at, decision.reason, shown)


def _approval_of(attempt: Attempt, call: ToolCall) -> Approval | None:
    return next((one for one in attempt.claim.approvals if one.request.call == call.id), None)
