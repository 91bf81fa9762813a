"""Work that passes between agents: the next agent's input, its output, and the operations about both.

Owns the operations `transfer`, `delegation_sent` and `delegation_returned`, a delegated agent's view of the
conversation, and the output of a delegate call. Each operation is emitted before the event that it announces:
no history keeps operations, and after a crash between the two the operation is emitted again.
"""

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.typed_output import show_output
from rejoin_protocol.limits import TOOL_RESULT_BYTES_MAX
from rejoin_protocol.log.record import Audience
from rejoin_runner.agent.output_type import OutputType
from rejoin_runner.models.model import ModelRequest
from rejoin_runner.next_action import agent_stack
from rejoin_runner.next_action.agent_stack import PartOrigin, ToolCall
from rejoin_runner.output.typed_answer import UnfitAnswer, read_output
from rejoin_runner.run.attempt import Attempt, clip_error
from rejoin_runner.tools.tool_context import build_operation

STEPS_USED_UP = "It used up its steps and has not finished."
AGENT_FAILED = "The agent failed before it could make this call."


async def begin_step(attempt: Attempt) -> None:
    """Start a step. If it is a delegated agent's first one, emit `delegation_sent` before it."""
    call = attempt.state.frames.next_call
    if call is not None:
        target = agent_stack.delegate_target(call.tool)
        await _emit_operation(attempt, "delegation_sent", call, attempt.agent.name, target)
    await attempt.emit(chunks.StartStep())


async def emit_handoff(attempt: Attempt, call: ToolCall) -> None:
    """Emit the operation `transfer` if the call hands off the conversation."""
    target = agent_stack.handoff_target(call.tool)
    if target is not None:
        await _emit_operation(attempt, "transfer", call, attempt.agent.name, target)


async def complete_call(attempt: Attempt, call: ToolCall, *, complete: bool) -> None:
    """Emit a delegate call's output: the text of the delegated agent's last step, or the object that it is if
    the agent has an output type. If the agent is not `complete`, or the text is larger than a tool result may
    be, or does not fit the type, emit an error.
    """
    text = agent_stack.delegation_output(attempt.state.message, call.id)
    await _emit_returned(attempt, call)
    if not complete:
        await attempt.emit(call_error(call, STEPS_USED_UP))
    elif len(text.encode()) > TOOL_RESULT_BYTES_MAX:
        await attempt.emit(
            call_error(call, f"Its answer is larger than {TOOL_RESULT_BYTES_MAX // 1024} KiB.")
        )
    elif attempt.output is None:
        await attempt.emit(chunks.ToolOutputAvailable(tool_call_id=call.id, output=text))
    else:
        await attempt.emit(_typed_result(call, attempt.output, text))


def _typed_result(call: ToolCall, type: OutputType, text: str) -> Chunk:
    try:
        value = read_output(text)
    except UnfitAnswer as fault:
        return call_error(call, f"Its answer does not fit: {fault}")
    error = type.find_fault(value)
    if error is not None:
        return call_error(call, f"Its answer does not fit: {error}")
    return chunks.ToolOutputAvailable(tool_call_id=call.id, output=value)


async def fail_step(attempt: Attempt, code: str, error: str) -> None:
    """The active agent's step has failed. The conversation's agent fails the run; a delegated agent only
    fails its call, so that its caller can react.
    """
    state = attempt.state
    call = state.frames.top.call
    if call is None:
        await attempt.fail(code, error)
        return
    await _emit_returned(attempt, call)
    for chunk in state.closing_chunks():
        await attempt.emit(chunk)
    for open_call in state.open_calls:
        await attempt.emit(call_error(open_call, AGENT_FAILED))
    await attempt.emit(chunks.FinishStep())
    await attempt.emit(call_error(call, f"It failed: {error}"))


def active_origin(attempt: Attempt) -> PartOrigin | None:
    """The origin of the active agent's parts; None if the agent works on the conversation itself."""
    call = attempt.state.frames.top.call
    return None if call is None else PartOrigin(attempt.agent.name, call.id)


def model_request(attempt: Attempt) -> ModelRequest:
    """The active agent's model request, without its instructions. A delegated agent sees its task and its own
    frame, and nothing of the conversation.
    """
    frame = attempt.state.frames.top
    answer = agent_stack.frame_view(attempt.state.message, None if frame.call is None else frame.call.id)
    return ModelRequest(
        instructions="",
        history=attempt.history if frame.call is None else [agent_stack.task_message(frame.call)],
        answer=show_output(answer),
        tools=[tool.spec for tool in attempt.tools.values()],
        step=frame.steps - 1,
        output=None if attempt.output is None else attempt.output.spec,
    )


def call_error(call: ToolCall, text: str) -> chunks.ToolOutputError:
    """A call's error result, which the model reads."""
    return chunks.ToolOutputError(tool_call_id=call.id, error_text=clip_error(text))


async def _emit_returned(attempt: Attempt, call: ToolCall) -> None:
    caller = attempt.state.frames.stack[-2]  # the frame below the active one made the call
    await _emit_operation(attempt, "delegation_returned", call, attempt.agent.name, attempt.agent_of(caller))


async def _emit_operation(
    attempt: Attempt, kind: str, call: ToolCall, source: str, target: str | None
) -> None:
    data = {"fromSubAgent": source, "targetSubAgent": target, "toolCallId": call.id}
    operation = build_operation(kind, f"{source} → {target}", attempt.now_ms(), source, data)
    await attempt.emit(operation, Audience.OPERATIONS)
