"""What a run needs next: one pure function of what its log says.

The log is the only memory. A runner that has just emitted an event and a runner that has just taken the run
over call the same function with equal state and get the same action, so recovery needs no code of its own.
The one difference is `DecisionInputs.possibly_started`: calls that an earlier attempt may have started, and
whose tools say whether they may run again.

Agents that hand off or delegate do not change this: the calls that are approved, run, suspended and resumed
are the active agent's. A delegate call waits for the other calls of its step and for its own approval; it
gets its output when the frame that it opens has nothing left to do.
"""

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from rejoin_adapters.answer_events import final_decision
from rejoin_adapters.store_types import Approval, Decision
from rejoin_protocol.events.chunks import FinishReason
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.typed_output import find_faults, output_state
from rejoin_protocol.ids import CallId
from rejoin_protocol.lifecycle import State
from rejoin_runner.next_action.agent_stack import ToolCall, delegate_target, handoff_target
from rejoin_runner.next_action.run_state import Phase, RunState, StepPhase

ALREADY_HANDED_OFF = "Not done: this step has handed off the conversation already."
TOO_MANY_HANDOFFS = "Not done: the conversation was handed off too often. Continue it yourself."
TOO_DEEP = "Not done: too many agents wait for each other. Do it yourself."


class StartMessage(msgspec.Struct, frozen=True):
    """Start the message, and with it the log."""


class RestoreMessage(msgspec.Struct, frozen=True):
    """Start a new log with the stored message: the run was suspended for longer than logs are kept."""


class ContinueMessage(msgspec.Struct, frozen=True):
    """Continue the message in a new turn."""


class EmitDecisions(msgspec.Struct, frozen=True):
    """Emit the decisions about approvals that the log does not have yet."""

    decisions: Sequence[Decision]


class VoidStep(msgspec.Struct, frozen=True):
    """Void the open step: its model response is incomplete."""


class CallModel(msgspec.Struct, frozen=True):
    """Call the model, in a new step unless an empty one is open."""


class CheckApprovals(msgspec.Struct, frozen=True):
    """Ask the application's functions whether calls need an approval, and log what they say."""

    calls: Sequence[ToolCall]
    """In the model's order, with those that need one in any case."""
    needing: Sequence[ToolCall] = ()
    """Those: they are not asked about."""


class FindSteering(msgspec.Struct, frozen=True):
    """Ask the store for messages that steer the run: the next step can begin, or the message can end."""


class EmitSteering(msgspec.Struct, frozen=True):
    """Emit steering messages. A step follows, whose model reads them."""

    messages: Sequence[MessageDict]


class RequestApprovals(msgspec.Struct, frozen=True):
    """Store approval requests and emit them."""

    calls: Sequence[ToolCall]


class RequestOutputs(msgspec.Struct, frozen=True):
    """Store that calls of client tools wait for their outputs. Clients see it from the calls themselves."""

    calls: Sequence[ToolCall]


class RunToolCalls(msgspec.Struct, frozen=True):
    """Give calls their results: run some, and resolve the others without running them."""

    run: Sequence[ToolCall]
    deny: Sequence[tuple[ToolCall, Decision]]
    """Calls that a person denied, or whose approval expired."""
    unknown: Sequence[ToolCall]
    """Calls that an earlier attempt may have run, and that must not run twice."""
    refuse: Sequence[tuple[ToolCall, str]] = ()
    """Calls beyond a limit, each with the error that the model reads."""
    answered: Sequence[tuple[ToolCall, Decision]] = ()
    """Calls of client tools that the client has answered."""


class CompleteDelegation(msgspec.Struct, frozen=True):
    """Give a delegate call the output of its agent. `complete` is False if the agent used up its steps."""

    call: ToolCall
    complete: bool


class AbortRun(msgspec.Struct, frozen=True):
    """The user interrupted the run: resolve the open calls and emit the abort."""

    calls: Sequence[ToolCall]


class CloseStep(msgspec.Struct, frozen=True):
    """Close the step: each of its calls has its result, or is a delegate call."""


class SuspendRun(msgspec.Struct, frozen=True):
    """End the response: nothing can be done before a person decides."""


class ReleaseRun(msgspec.Struct, frozen=True):
    """Store the suspended run and give up the lease."""


class FinishMessage(msgspec.Struct, frozen=True):
    """End the message, and with it the log."""

    reason: FinishReason


class FailOutput(msgspec.Struct, frozen=True):
    """End the run with an error: it has no output that fits."""

    reason: FinishReason
    """Why the last response ended."""


class RecordEnd(msgspec.Struct, frozen=True):
    """Store the complete message and the run's terminal state."""

    state: State


type Action = (
    StartMessage
    | RestoreMessage
    | ContinueMessage
    | EmitDecisions
    | VoidStep
    | CallModel
    | CheckApprovals
    | FindSteering
    | EmitSteering
    | RequestApprovals
    | RequestOutputs
    | RunToolCalls
    | CompleteDelegation
    | AbortRun
    | CloseStep
    | SuspendRun
    | ReleaseRun
    | FinishMessage
    | FailOutput
    | RecordEnd
)


class Policy(msgspec.Struct, frozen=True):
    """What the active agent declares about its calls and limits."""

    needs_approval: Callable[[ToolCall], bool | None]
    """Whether a person must approve a call. None: a function of the application decides."""
    may_run_again: Callable[[ToolCall], bool]
    """Whether a call whose outcome is unknown may run again."""
    max_steps: int
    """Steps of the active agent in a row."""
    handoffs_max: int = 10
    """Handoffs of the conversation in one run."""
    delegation_depth_max: int = 5
    """Agents that may wait for each other."""
    runs_in_client: Callable[[ToolCall], bool] = lambda _: False
    """Whether the client runs the call's tool."""
    output_retries: int | None = None
    """How often an output that does not fit goes back to the model. None: the answer is text."""
    reads_steering: bool = True
    """Whether a next step of the agent would read a message that comes during the run."""


class DecisionInputs(msgspec.Struct, frozen=True):
    """The inputs of a decision that are not in the log."""

    turn: int
    """The turn that was claimed: how often all of the run's approvals were decided."""
    approvals: Mapping[CallId, Approval]
    """The run's approvals in the database, decided or not."""
    possibly_started: Collection[CallId]
    """Open calls that an earlier attempt may have started."""
    message_stored: bool = False
    """Whether the database has the message of the last suspension."""
    steering: Sequence[MessageDict] | None = ()
    """The messages that steer the run; its log may have some. None: the store was not asked since the run has
    last worked.
    """
    interrupted: bool = False

    def waits_for_output(self, call: ToolCall) -> bool:
        """Whether the call is stored as one that a client answers, or has answered, with an output."""
        approval = self.approvals.get(call.id)
        return approval is not None and approval.request.kind == "tool-output"

    def is_approved(self, call: ToolCall) -> bool:
        """Whether a person has approved the call."""
        approval = self.approvals.get(call.id)
        return approval is not None and approval.decision is not None and approval.decision.approved


def next_action(state: RunState, inputs: DecisionInputs, policy: Policy) -> Action:
    """The run's next action. The caller carries it out, applies to `state` what it emits, and calls again.
    `ReleaseRun` and `RecordEnd` end the turn.
    """
    match state.phase:
        case Phase.ENDED:
            return RecordEnd(terminal_state(state))
        case Phase.NOT_STARTED | Phase.RESTORING:
            # A restore that a crash cut off starts again: the log is rebuilt from its first event.
            return RestoreMessage() if inputs.message_stored and inputs.turn > 0 else StartMessage()
        case Phase.SUSPENDED:
            # The store starts a new turn when the last open approval is decided. Before that, the log has
            # a suspension that the database does not have yet.
            return ContinueMessage() if inputs.turn >= state.suspensions else ReleaseRun()
        case Phase.RUNNING:
            return _next_while_running(state, inputs, policy)


def _next_while_running(state: RunState, inputs: DecisionInputs, policy: Policy) -> Action:
    if state.error is not None or state.aborted:
        return FinishMessage("error" if state.error is not None else "other")
    if inputs.interrupted:
        return AbortRun(state.all_open_calls)
    match state.step:
        case StepPhase.EMPTY:
            return CallModel()
        case StepPhase.PARTIAL:
            return VoidStep()
        case StepPhase.GENERATED | StepPhase.CLOSED | StepPhase.INCOMPLETE:
            return _next_after_response(state, inputs, policy)


def _next_after_response(state: RunState, inputs: DecisionInputs, policy: Policy) -> Action:
    calls = state.open_calls
    unstored = [call for call in calls if policy.runs_in_client(call) and call.id not in inputs.approvals]
    if unstored:
        return RequestOutputs(unstored)
    # An approval request that is stored is emitted even if the policy has changed since a deploy: a person
    # may have seen and answered it.
    unrequested = [
        call
        for call in calls
        if call.id not in state.approval_ids
        and not inputs.waits_for_output(call)
        and (call.id in inputs.approvals or policy.needs_approval(call) is True)
    ]
    unchecked = [call for call in calls if _must_be_checked(call, state, inputs, policy)]
    if unchecked:
        asked = [call for call in calls if call in unchecked or call in unrequested]
        return CheckApprovals(asked, unrequested)
    if unrequested:
        return RequestApprovals(unrequested)
    decisions = _decisions_to_emit(state, inputs)
    if decisions:
        return EmitDecisions(decisions)
    action = _sort_calls(calls, state, inputs, policy)
    if action.run or action.deny or action.unknown or action.refuse or action.answered:
        return action
    # Only after all other calls: a suspended run holds no worker, so everything that can run has run.
    if any(_waits_for_decision(call, state, inputs) for call in calls):
        return SuspendRun()
    if state.step_open:
        return CloseStep()
    # What is open now are delegate calls, and the next step belongs to the first one's agent.
    return CallModel() if calls else _next_after_step(state, inputs, policy)


def _must_be_checked(call: ToolCall, state: RunState, inputs: DecisionInputs, policy: Policy) -> bool:
    """Whether a function must be asked about the call. It is asked once: its answer is in the log before
    anything depends on it, so an attempt that takes over acts on the same answer.
    """
    is_requested = call.id in state.approval_ids or call.id in inputs.approvals
    return not is_requested and call.id not in state.checked_calls and policy.needs_approval(call) is None


def _next_after_step(state: RunState, inputs: DecisionInputs, policy: Policy) -> Action:
    """What comes after a closed step whose calls all have a result."""
    frame = state.frames.top
    # A delegated agent's text is its output, so its response must be complete. The conversation's own text
    # is in the message anyway.
    output_missing = frame.is_delegated and not frame.calls and state.step is StepPhase.INCOMPLETE
    has_steps_left = frame.steps_since_handoff < policy.max_steps
    goes_on = frame.steps == 0 or frame.successor is not None or output_missing
    goes_on = goes_on or (bool(frame.calls) and has_steps_left)  # the model reads the results of its calls
    if frame.call is not None:
        return CallModel() if goes_on else CompleteDelegation(frame.call, complete=not frame.calls)
    # The user speaks to the conversation's agent. A message that has no step left is the next turn.
    if (goes_on or has_steps_left) and policy.reads_steering:
        if inputs.steering is None:
            return FindSteering()
        new = [message for message in inputs.steering if message["id"] not in state.steering]
        if new:
            return EmitSteering(new)
    if goes_on or state.steering_waits:
        return CallModel()
    reason = "tool-calls" if frame.calls else state.finish_reason
    if policy.output_retries is None or (reason == "stop" and output_state(state.message) == "done"):
        return FinishMessage(reason)
    if reason == "stop" and has_steps_left and len(find_faults(state.message)) <= policy.output_retries:
        return CallModel()  # the model reads what is wrong with its answer
    return FailOutput(reason)


def _sort_calls(
    calls: Sequence[ToolCall], state: RunState, inputs: DecisionInputs, policy: Policy
) -> RunToolCalls:
    """Sort the open calls by what is to be done with them. Calls that wait are in no list."""
    run: list[ToolCall] = []
    deny: list[tuple[ToolCall, Decision]] = []
    unknown: list[ToolCall] = []
    refuse: list[tuple[ToolCall, str]] = []
    answered: list[tuple[ToolCall, Decision]] = []
    for call in calls:
        decision = _decision_on(call, state, inputs)
        if _waits_for_decision(call, state, inputs):
            continue
        if decision is not None and inputs.waits_for_output(call):
            answered.append((call, decision))
        elif decision is not None and not decision.approved:
            deny.append((call, decision))
        elif (reason := _limit_error(call, run, state, policy)) is not None:
            refuse.append((call, reason))
        elif delegate_target(call.tool) is not None:
            continue  # its agent starts when the step is closed
        elif call.id in inputs.possibly_started and not policy.may_run_again(call):
            unknown.append(call)
        else:
            run.append(call)
    return RunToolCalls(run, deny, unknown, tuple(refuse), tuple(answered))


def _limit_error(call: ToolCall, run: Sequence[ToolCall], state: RunState, policy: Policy) -> str | None:
    """The error for a handoff or delegation beyond a limit; None if there is no such error."""
    frames = state.frames
    if delegate_target(call.tool) is not None:
        return TOO_DEEP if len(frames.stack) > policy.delegation_depth_max else None
    if handoff_target(call.tool) is None:
        return None
    if frames.top.successor is not None or any(handoff_target(other.tool) is not None for other in run):
        return ALREADY_HANDED_OFF
    return TOO_MANY_HANDOFFS if frames.handoffs >= policy.handoffs_max else None


def _waits_for_decision(call: ToolCall, state: RunState, inputs: DecisionInputs) -> bool:
    is_requested = call.id in state.approval_ids or inputs.waits_for_output(call)
    return is_requested and _decision_on(call, state, inputs) is None


def _decision_on(call: ToolCall, state: RunState, inputs: DecisionInputs) -> Decision | None:
    """The decision about a call whose approval request is in the log, or the client's output for a call."""
    is_requested = call.id in state.approval_ids or inputs.waits_for_output(call)
    approval = inputs.approvals.get(call.id) if is_requested else None
    return None if approval is None else final_decision(approval)


def _decisions_to_emit(state: RunState, inputs: DecisionInputs) -> list[Decision]:
    approvals = [one for one in inputs.approvals.values() if one.request.kind == "approval"]
    decisions = [final_decision(approval) for approval in approvals]
    return [
        decision
        for decision in decisions
        if decision is not None and decision.approval not in state.answered_approvals
    ]


def terminal_state(state: RunState) -> State:
    """The terminal state of a run whose log is complete."""
    if state.error is not None:
        return State.FAILED
    return State.CANCELLED if state.aborted else State.COMPLETED


def possibly_started_calls(state: RunState) -> frozenset[CallId]:
    """The open calls that an earlier attempt may have started."""
    return frozenset(call.id for call in state.open_calls if call.id in state.started_calls)
