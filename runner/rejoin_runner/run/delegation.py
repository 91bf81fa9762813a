"""Work that changes hands: what is said about it, what the next agent is told, and what comes back.

Owns the operations `transfer`, `delegation_sent` and `delegation_returned`, what an agent sees of the
conversation, and the output of a delegate call. Each operation comes before the event that it is about: no
history has it, and a crash between the two says it again.
"""

from rejoin_protocol.events import chunks
from rejoin_protocol.log.record import Audience

from rejoin_runner.decision import agent_stack
from rejoin_runner.decision.agent_stack import PartOrigin, ToolCall
from rejoin_runner.models.model import ModelRequest
from rejoin_runner.run.attempt import Attempt, worded
from rejoin_runner.tools.tool import RESULT_BYTES_MAX
from rejoin_runner.tools.tool_context import build_operation

SPENT = "It used up its steps and has not finished."
UNFINISHED = "The agent failed before it could make this call."


async def begin_step(attempt: Attempt) -> None:
    """Begin a step, and say so if it is a delegated agent's first."""
    call = attempt.state.frames.next_call
    if call is not None:
        target = agent_stack.delegate_target(call.tool)
        await _operation(attempt, "delegation_sent", call, attempt.agent.name, target)
    await attempt.emit(chunks.StartStep())


async def transfer(attempt: Attempt, call: ToolCall) -> None:
    """Say that the conversation is handed over, if this call does it."""
    target = agent_stack.transfer_target(call.tool)
    if target is not None:
        await _operation(attempt, "transfer", call, attempt.agent.name, target)


async def hand_back(attempt: Attempt, call: ToolCall, *, complete: bool) -> None:
    """Give a delegate call its output: what the agent said last."""
    text = agent_stack.outcome(attempt.state.message, call.id)
    await _returned(attempt, call)
    if not complete:
        await attempt.emit(error(call, SPENT))
    elif len(text.encode()) > RESULT_BYTES_MAX:
        await attempt.emit(error(call, f"Its answer is larger than {RESULT_BYTES_MAX // 1024} KiB."))
    else:
        await attempt.emit(chunks.ToolOutputAvailable(tool_call_id=call.id, output=text))


async def fail(attempt: Attempt, code: str, text: str) -> None:
    """A response has failed. It ends a delegated agent's work, and its caller is told, or else the run."""
    state = attempt.state
    call = state.frames.top.call
    if call is None:
        await attempt.fail(code, text)
        return
    await _returned(attempt, call)
    for chunk in state.closing():
        await attempt.emit(chunk)
    for unfinished in state.open_calls:
        await attempt.emit(error(unfinished, UNFINISHED))
    await attempt.emit(chunks.FinishStep())
    await attempt.emit(error(call, f"It failed: {text}"))


def owner(attempt: Attempt) -> PartOrigin | None:
    """Whom the parts of this step belong to, if to a delegated agent."""
    call = attempt.state.frames.top.call
    return None if call is None else PartOrigin(attempt.agent.name, call.id)


def request(attempt: Attempt) -> ModelRequest:
    """What the agent that works asks its model: of the message it sees its own frame only."""
    frame = attempt.state.frames.top
    return ModelRequest(
        instructions="",  # `respond` says them: they may have to be made
        history=attempt.history if frame.call is None else [agent_stack.task(frame.call)],
        answer=agent_stack.view(attempt.state.message, None if frame.call is None else frame.call.id),
        tools=[tool.spec for tool in attempt.tools.values()],
        step=frame.steps - 1,
    )


def error(call: ToolCall, text: str) -> chunks.ToolOutputError:
    """A call's result that tells the model what went wrong."""
    return chunks.ToolOutputError(tool_call_id=call.id, error_text=worded(text))


async def _returned(attempt: Attempt, call: ToolCall) -> None:
    # The frame that waits is the one below; its agent made the call.
    waiting = attempt.state.frames.stack[-2]
    await _operation(attempt, "delegation_returned", call, attempt.agent.name, attempt.name_of(waiting))


async def _operation(attempt: Attempt, kind: str, call: ToolCall, source: str, target: str | None) -> None:
    data = {"fromSubAgent": source, "targetSubAgent": target, "toolCallId": call.id}
    said = build_operation(kind, f"{source} → {target}", attempt.now_ms(), source, data)
    await attempt.emit(said, Audience.OPERATIONS)
