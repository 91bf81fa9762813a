"""What a run needs next: one pure function from what its log says.

There is no other memory. A runner that has just emitted something and one that has just taken the run over
ask the same question and get the same answer; so recovery is not a second program. A call without a result
that an earlier attempt may have started is `inherited`: its tool says whether it may be made again.

Agents that hand over or delegate change nothing of that: what is asked, run, suspended and resumed are the
calls of the agent that works. A delegate call waits for the other calls of its step and for its approval, and
gets its output when the frame it opens has nothing left to do.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import msgspec
from rejoin_adapters.records import Approval, Decision
from rejoin_protocol.ids import CallId
from rejoin_protocol.lifecycle import State

from rejoin_runner.decision.agent_stack import ToolCall, delegate_target, transfer_target
from rejoin_runner.decision.run_state import RunState

NOBODY_DECIDED = "Nobody decided in time."
TRANSFERRED = "Not done: this step has handed the conversation over already."
TRANSFERS_SPENT = "Not done: the conversation was handed over too often. Go on with it yourself."
TOO_DEEP = "Not done: too many agents wait for each other. Do it yourself."


class StartMessage(msgspec.Struct, frozen=True):
    """Begin the message."""


class RestoreMessage(msgspec.Struct, frozen=True):
    """Begin the log again with the stored message: it was suspended for longer than logs are kept."""


class ContinueMessage(msgspec.Struct, frozen=True):
    """Go on with the message in a new turn."""


class EmitDecisions(msgspec.Struct, frozen=True):
    """Say what was decided."""

    decided: Sequence[Decision]


class VoidStep(msgspec.Struct, frozen=True):
    """Void the half-done step: its model response was never completed."""


class CallModel(msgspec.Struct, frozen=True):
    """Call the model, in a new step unless one is open."""


class RequestApprovals(msgspec.Struct, frozen=True):
    """Store questions and show them."""

    calls: Sequence[ToolCall]


class RunToolCalls(msgspec.Struct, frozen=True):
    """Give calls their results: run some, deny some, and say of some that their outcome is unknown."""

    run: Sequence[ToolCall]
    deny: Sequence[tuple[ToolCall, Decision]]
    unknown: Sequence[ToolCall]
    refuse: Sequence[tuple[ToolCall, str]] = ()
    """Calls that are over a bound, and what the model is told."""


class CompleteDelegation(msgspec.Struct, frozen=True):
    """A delegated agent is done: its caller's call gets its output. Not `complete`: it ran out of steps."""

    call: ToolCall
    complete: bool


class AbortRun(msgspec.Struct, frozen=True):
    """Somebody interrupted the run: leave no call open, and say so."""

    calls: Sequence[ToolCall]


class CloseStep(msgspec.Struct, frozen=True):
    """Every call of the step has its result."""


class SuspendRun(msgspec.Struct, frozen=True):
    """Nothing can be done before a decision: end the response."""


class ReleaseRun(msgspec.Struct, frozen=True):
    """The log is suspended: let go of the run."""


class FinishMessage(msgspec.Struct, frozen=True):
    """End the message."""

    reason: Literal["stop", "tool-calls", "error", "other"]


class RecordEnd(msgspec.Struct, frozen=True):
    """The log is complete: store its message and the run's end."""

    state: State


type Action = (
    StartMessage
    | RestoreMessage
    | ContinueMessage
    | EmitDecisions
    | VoidStep
    | CallModel
    | RequestApprovals
    | RunToolCalls
    | CompleteDelegation
    | AbortRun
    | CloseStep
    | SuspendRun
    | ReleaseRun
    | FinishMessage
    | RecordEnd
)


class Policy(msgspec.Struct, frozen=True):
    """What the agent says about its calls."""

    asks: Callable[[ToolCall], bool]
    """Whether a call needs a person's word."""
    retries: Callable[[ToolCall], bool]
    """Whether a call whose outcome is unknown may be made again."""
    max_steps: int
    """Of the agent that works, in a row."""
    handoffs_max: int = 10
    """In the run."""
    delegation_depth_max: int = 5
    """How many agents may wait for each other."""


class DecisionInputs(msgspec.Struct, frozen=True):
    """What the log cannot say: turns decided so far, the approvals, the calls that an earlier attempt may
    have started, whether the message of the last suspension is stored, whether somebody interrupted the run.
    """

    turn: int
    approvals: Mapping[CallId, Approval]
    inherited: Collection[CallId]
    stored: bool = False
    interrupted: bool = False

    def approved(self, call: ToolCall) -> bool:
        """Whether a person has said yes to it."""
        approval = self.approvals.get(call.id)
        return approval is not None and approval.decision is not None and approval.decision.approved


def next_action(state: RunState, inputs: DecisionInputs, policy: Policy) -> Action:
    """Do it, feed what was emitted to `standing`, and ask again; `ReleaseRun` and `RecordEnd` are the
    last.
    """
    if state.ended:
        return RecordEnd(outcome(state))
    if not state.opened or state.restoring:
        return RestoreMessage() if inputs.stored and inputs.turn > 0 else StartMessage()
    if state.suspended:
        return ContinueMessage() if inputs.turn >= state.suspensions else ReleaseRun()
    if state.error is not None or state.aborted:
        return FinishMessage("error" if state.error is not None else "other")
    if inputs.interrupted:
        return AbortRun(state.all_open_calls)
    if state.step_open and not state.generated:
        return VoidStep() if state.step_dirty else CallModel()
    return _after_response(state, inputs, policy)


def _after_response(state: RunState, inputs: DecisionInputs, policy: Policy) -> Action:
    calls = state.open_calls
    # A question that is stored is shown, whatever the policy says by now: somebody may have answered it.
    unasked = [
        call
        for call in calls
        if call.id not in state.asked and (call.id in inputs.approvals or policy.asks(call))
    ]
    if unasked:
        return RequestApprovals(unasked)
    news = _news(state, inputs)
    if news:
        return EmitDecisions(news)
    act = _act(calls, state, inputs, policy)
    if act.run or act.deny or act.unknown or act.refuse:
        return act
    if any(_waits(call, state, inputs) for call in calls):
        return SuspendRun()
    if state.step_open:
        return CloseStep()
    return CallModel() if calls else _after_step(state, policy)


def _after_step(state: RunState, policy: Policy) -> Action:
    """Every call has its result."""
    frame = state.frames.top
    unheard = frame.call is not None and not frame.calls and not state.generated
    going_on = frame.steps == 0 or frame.successor is not None or unheard
    if going_on or (frame.calls and frame.stint < policy.max_steps):
        return CallModel()
    if frame.call is not None:
        return CompleteDelegation(frame.call, complete=not frame.calls)
    return FinishMessage("tool-calls" if frame.calls else "stop")


def _act(calls: Sequence[ToolCall], state: RunState, inputs: DecisionInputs, policy: Policy) -> RunToolCalls:
    run: list[ToolCall] = []
    deny, unknown, refuse = [], [], []
    for call in calls:
        decision = _word(call, state, inputs)
        if call.id in state.asked and decision is None:
            continue
        if decision is not None and not decision.approved:
            deny.append((call, decision))
        elif (reason := _refusal(call, run, state, policy)) is not None:
            refuse.append((call, reason))
        elif delegate_target(call.tool) is not None:
            continue  # its turn comes when the step is closed
        elif call.id in inputs.inherited and not policy.retries(call):
            unknown.append(call)
        else:
            run.append(call)
    return RunToolCalls(run, deny, unknown, tuple(refuse))


def _refusal(call: ToolCall, run: Sequence[ToolCall], state: RunState, policy: Policy) -> str | None:
    """Why a call to another agent is not made, if it is over a bound."""
    frames = state.frames
    if delegate_target(call.tool) is not None:
        return TOO_DEEP if len(frames.stack) > policy.delegation_depth_max else None
    if transfer_target(call.tool) is None:
        return None
    if frames.top.successor is not None or any(transfer_target(other.tool) is not None for other in run):
        return TRANSFERRED
    return TRANSFERS_SPENT if frames.transfers >= policy.handoffs_max else None


def _waits(call: ToolCall, state: RunState, inputs: DecisionInputs) -> bool:
    """Whether a call that is still open is so because nobody has decided about it."""
    return call.id in state.asked and _word(call, state, inputs) is None


def _word(call: ToolCall, state: RunState, inputs: DecisionInputs) -> Decision | None:
    """What was decided about a call that was asked about."""
    approval = inputs.approvals.get(call.id) if call.id in state.asked else None
    return None if approval is None else _decision(approval)


def _news(state: RunState, inputs: DecisionInputs) -> list[Decision]:
    decisions = [_decision(approval) for approval in inputs.approvals.values()]
    return [
        decision for decision in decisions if decision is not None and decision.approval not in state.answered
    ]


def _decision(approval: Approval) -> Decision | None:
    """What was decided, by a person or by the lapse of time."""
    if approval.decision is not None and approval.expired:
        return msgspec.structs.replace(approval.decision, reason=NOBODY_DECIDED)
    return approval.decision


def outcome(state: RunState) -> State:
    """The terminal state that a complete log says."""
    if state.error is not None:
        return State.FAILED
    return State.CANCELLED if state.aborted else State.COMPLETED


def inherited(state: RunState) -> frozenset[CallId]:
    """The calls that an earlier attempt may have started."""
    return frozenset(call.id for call in state.open_calls if call.id in state.started)
