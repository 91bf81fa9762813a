"""`next_action` as transcripts: a log, the decisions about approvals, and the next action."""

from collections.abc import Sequence
from typing import Any

import pytest

from rejoin_adapters.store_types import Approval, ApprovalRequest, Decision
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.typed_output import STATE_KEY, OutputFault, fault_chunk, output_chunk
from rejoin_protocol.ids import ApprovalId, CallId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.log.record import Mark
from rejoin_runner.next_action import decide
from rejoin_runner.next_action.agent_stack import ToolCall
from rejoin_runner.next_action.decide import (
    CallModel,
    CheckApprovals,
    CloseStep,
    CompleteDelegation,
    ContinueMessage,
    DecisionInputs,
    EmitDecisions,
    EmitSteering,
    FailOutput,
    FindSteering,
    FinishMessage,
    Policy,
    RecordEnd,
    ReleaseRun,
    RequestApprovals,
    RunToolCalls,
    StartMessage,
    SuspendRun,
    VoidStep,
)
from rejoin_runner.next_action.run_state import RunState

START = chunks.Start(message_id="m")
STEP = chunks.StartStep()
TEXT: list[Chunk] = [chunks.TextStart(id="t"), chunks.TextDelta(id="t", delta="hi"), chunks.TextEnd(id="t")]
CALL = ToolCall(CallId("c"), "weather", {"city": "Paris"})
OTHER = ToolCall(CallId("d"), "delete", {"file": "x"})
APPROVAL = ApprovalId("a")


def called(call: ToolCall) -> Chunk:
    return chunks.ToolInputAvailable(tool_call_id=call.id, tool_name=call.tool, input=call.input)


def result(call: ToolCall) -> Chunk:
    return chunks.ToolOutputAvailable(tool_call_id=call.id, output="fine")


def asked(call: ToolCall) -> Chunk:
    return chunks.ToolApprovalRequest(approval_id=APPROVAL, tool_call_id=call.id)


def state_of(*entries: Chunk | Mark) -> RunState:
    """The state of a log of these chunks and marks."""
    state = RunState()
    for entry in entries:
        if isinstance(entry, Mark):
            state.apply_mark(entry)
        else:
            state.apply(entry)
    return state


def approval(*, approved: bool | None) -> Approval:
    decision = None if approved is None else Decision(APPROVAL, approved)
    return Approval(ApprovalRequest(APPROVAL, OTHER.id, OTHER.tool, OTHER.input), decision, 0)


def action(
    log: Sequence[Chunk | Mark],
    *,
    turn: int = 0,
    approvals: Sequence[Approval] = (),
    taken_over: bool = False,
    steering: Sequence[MessageDict] | None = (),
    reads_steering: bool = True,
) -> decide.Action:
    """The next action, if `delete` needs approval and must not run twice."""
    state = state_of(*log)
    return decide.next_action(
        state,
        DecisionInputs(
            turn=turn,
            approvals={approval.request.call: approval for approval in approvals},
            possibly_started=decide.possibly_started_calls(state) if taken_over else (),
            steering=steering,
        ),
        Policy(
            lambda call: call.tool == "delete",
            lambda call: call.tool != "delete",
            max_steps=3,
            handoffs_max=2,
            delegation_depth_max=1,
            reads_steering=reads_steering,
        ),
    )


GENERATED = Mark.GENERATED
CALLED = [START, STEP, called(CALL), GENERATED]
ASKED = [START, STEP, called(OTHER), GENERATED, asked(OTHER)]
SUSPENDED = [*ASKED, chunks.FinishStep(), chunks.Finish(), Mark.SUSPENDED]
CONTINUED = [*SUSPENDED, START]

TRANSCRIPTS: dict[str, tuple[Sequence[Chunk | Mark], decide.Action]] = {
    "an empty log starts the message": ([], StartMessage()),
    "a message without a step calls the model": ([START], CallModel()),
    "a step without output calls the model again": ([START, STEP], CallModel()),
    "a half response is voided": ([START, STEP, TEXT[0]], VoidStep()),
    "a response without its mark is voided too": ([START, STEP, *TEXT], VoidStep()),
    "a voided step calls the model": ([START, STEP, TEXT[0], chunks.ResetStep()], CallModel()),
    "a response without calls closes the step": ([START, STEP, *TEXT, GENERATED], CloseStep()),
    "a closed step without calls is the end": (
        [START, STEP, *TEXT, GENERATED, chunks.FinishStep()],
        FinishMessage("stop"),
    ),
    "a call is run": (CALLED, RunToolCalls([CALL], [], [])),
    "a call with a result closes the step": ([*CALLED, result(CALL)], CloseStep()),
    "a closed step with calls calls the model": ([*CALLED, result(CALL), chunks.FinishStep()], CallModel()),
    "too many steps end the message": (
        [START, *(3 * [STEP, called(CALL), GENERATED, result(CALL), chunks.FinishStep()])],
        FinishMessage("tool-calls"),
    ),
    "a call that needs approval requests it": (
        [START, STEP, called(OTHER), GENERATED],
        RequestApprovals([OTHER]),
    ),
    "other calls run before the run waits": (
        [START, STEP, called(CALL), called(OTHER), GENERATED, asked(OTHER)],
        RunToolCalls([CALL], [], []),
    ),
    "when every open call waits the run is suspended": (ASKED, SuspendRun()),
    "a suspended run is released": (SUSPENDED, ReleaseRun()),
    "an error is finished": ([START, STEP, chunks.Error(error_text="x")], FinishMessage("error")),
    "an abort is finished": ([START, chunks.Abort()], FinishMessage("other")),
    "a complete log is recorded": ([START, chunks.Finish(), Mark.ENDED], RecordEnd(State.COMPLETED)),
    "a complete failure too": (
        [START, chunks.Error(error_text="x"), chunks.Finish(), Mark.ENDED],
        RecordEnd(State.FAILED),
    ),
    "a complete abort too": (
        [START, chunks.Abort(), chunks.Finish(), Mark.ENDED],
        RecordEnd(State.CANCELLED),
    ),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    log, expected = TRANSCRIPTS[name]
    assert action(log) == expected


ANSWERED = [*CONTINUED, chunks.ToolApprovalResponse(approval_id=APPROVAL, approved=True)]
APPROVED = Decision(APPROVAL, approved=True)
DENIED = Decision(APPROVAL, approved=False)


@pytest.mark.parametrize(
    ("said", "reason"), [([], "stop"), (["length"], "length"), (["content-filter"], "content-filter")]
)
def test_the_message_ends_as_the_last_answer_of_the_model_ended(said: list[str], reason: Any) -> None:
    """Also for a runner that knows the run from its log only."""
    metadata = [chunks.MessageMetadata({"finishReason": word, "usage": {}}) for word in said]
    log: list[Chunk | Mark] = [START, STEP, *TEXT, *metadata, Mark.GENERATED, chunks.FinishStep()]
    assert action(log) == FinishMessage(reason)
    taken_back: list[Chunk | Mark] = [
        STEP,
        chunks.MessageMetadata({"finishReason": "stop"}),
        Mark.GENERATED,
        chunks.FinishStep(),
    ]
    assert action([*log, *taken_back]) == FinishMessage("stop")


def test_a_function_is_asked_about_a_call_once() -> None:
    """Its answer is a request in the log, or the mark; before that nothing depends on it."""

    def after(*log: Chunk | Mark, stored: bool = False) -> decide.Action:
        approvals = {OTHER.id: approval(approved=None)} if stored else {}
        inputs = DecisionInputs(turn=0, approvals=approvals, possibly_started=())
        rules = {CALL.tool: None, OTHER.tool: None, "ring": True}
        policy = Policy(lambda call: rules[call.tool], lambda _: True, max_steps=3)
        return decide.next_action(state_of(START, STEP, *log), inputs, policy)

    both = [called(CALL), called(OTHER), GENERATED]
    ring = ToolCall(CallId("e"), "ring", {})
    assert after(*both) == CheckApprovals([CALL, OTHER], [])
    assert after(*both, stored=True) == CheckApprovals([CALL, OTHER], [OTHER])
    assert after(*both, asked(OTHER)) == CheckApprovals([CALL], [])
    assert after(*both, asked(OTHER), Mark.CHECKED) == RunToolCalls([CALL], [], [])
    assert after(*both, Mark.CHECKED) == RunToolCalls([CALL, OTHER], [], [])
    assert after(called(ring), called(CALL), GENERATED) == CheckApprovals([ring, CALL], [ring])
    assert after(called(ring), called(CALL), GENERATED, Mark.CHECKED) == RequestApprovals([ring])
    later = [called(CALL), GENERATED, Mark.CHECKED, result(CALL), chunks.FinishStep(), STEP]
    assert after(*later, called(OTHER), GENERATED) == CheckApprovals([OTHER], [])


def test_a_decided_run_goes_on_in_a_new_turn() -> None:
    assert action(SUSPENDED, turn=1, approvals=[approval(approved=True)]) == ContinueMessage()


def test_a_turn_begins_with_the_decisions() -> None:
    assert action(CONTINUED, turn=1, approvals=[approval(approved=True)]) == EmitDecisions([APPROVED])


def test_an_approved_call_is_run() -> None:
    assert action(ANSWERED, turn=1, approvals=[approval(approved=True)]) == RunToolCalls([OTHER], [], [])


def test_a_denied_call_is_not() -> None:
    answered = [*CONTINUED, chunks.ToolApprovalResponse(approval_id=APPROVAL, approved=False)]
    assert action(answered, turn=1, approvals=[approval(approved=False)]) == RunToolCalls(
        [], [(OTHER, DENIED)], []
    )


def test_an_undecided_call_suspends_the_run_again() -> None:
    assert action(CONTINUED, turn=1, approvals=[approval(approved=None)]) == SuspendRun()


def test_a_call_that_was_not_started_runs_after_a_takeover_whatever_its_tool_says() -> None:
    assert action(ANSWERED, turn=1, approvals=[approval(approved=True)], taken_over=True) == RunToolCalls(
        [OTHER], [], []
    )


def test_a_call_that_may_have_been_started_runs_again_if_its_tool_may() -> None:
    assert action([*CALLED, Mark.CALLING], taken_over=True) == RunToolCalls([CALL], [], [])


def test_a_call_that_may_have_been_started_and_not_be_repeated_is_of_unknown_outcome() -> None:
    log = [*ANSWERED, Mark.CALLING]
    assert action(log, turn=1, approvals=[approval(approved=True)], taken_over=True) == RunToolCalls(
        [], [], [OTHER]
    )


def test_a_call_that_waited_for_its_decision_while_another_was_started_was_not_started() -> None:
    third = ToolCall(CallId("e"), "delete", {"file": "y"})
    log = [START, STEP, called(OTHER), called(third), GENERATED, asked(OTHER), Mark.CALLING]
    assert decide.possibly_started_calls(state_of(*log)) == {third.id}


def test_the_same_call_id_in_a_later_step_is_another_call() -> None:
    log = [*CALLED, result(CALL), chunks.FinishStep(), STEP, called(CALL), GENERATED]
    assert action(log) == RunToolCalls([CALL], [], [])


def test_the_same_call_id_after_a_reset_is_another_call() -> None:
    refused = chunks.ToolInputError(tool_call_id=CALL.id, tool_name="weather", input={}, error_text="no")
    assert action([START, STEP, refused, chunks.ResetStep(), called(CALL), GENERATED]) == RunToolCalls(
        [CALL], [], []
    )


def test_a_message_that_is_half_restored_is_restored_again() -> None:
    state = state_of(START, Mark.RESTORED, STEP)
    next_action = decide.next_action(
        state,
        DecisionInputs(turn=1, approvals={}, possibly_started=(), message_stored=True),
        Policy(bool, bool, max_steps=1),
    )
    assert next_action == decide.RestoreMessage()


def test_what_was_started_in_one_step_says_nothing_of_the_next() -> None:
    log = [*CALLED, Mark.CALLING, result(CALL), chunks.FinishStep(), STEP, called(CALL), GENERATED]
    assert decide.possibly_started_calls(state_of(*log)) == frozenset()


def test_a_call_with_a_preliminary_result_is_still_open() -> None:
    half = chunks.ToolOutputAvailable(tool_call_id=CALL.id, output="…", preliminary=True)
    assert action([*CALLED, half]) == RunToolCalls([CALL], [], [])


# Agents that hand off and delegate. `delete` needs approval, also as `delegate_to_delete`.

RESEARCH = ToolCall(CallId("r"), "delegate_to_research", {"task": "find"})
AGAIN = ToolCall(CallId("s"), "delegate_to_research", {"task": "find more"})
BILLING = ToolCall(CallId("b"), "transfer_to_billing", {})
SALES = ToolCall(CallId("v"), "transfer_to_sales", {})
END = chunks.FinishStep()
DELEGATED = [START, STEP, called(RESEARCH), GENERATED, END]
RESPONDED = [STEP, *TEXT, GENERATED, END]

WITH_OTHERS: dict[str, tuple[Sequence[Chunk | Mark], decide.Action]] = {
    "the other calls of a step come before its delegations": (
        [START, STEP, called(RESEARCH), called(CALL), GENERATED],
        RunToolCalls([CALL], [], []),
    ),
    "a delegation waits while another call waits for its approval": (
        [START, STEP, called(RESEARCH), called(OTHER), GENERATED, asked(OTHER)],
        SuspendRun(),
    ),
    "a delegation closes its step": ([START, STEP, called(RESEARCH), GENERATED], CloseStep()),
    "and calls the next agent's model": (DELEGATED, CallModel()),
    "whose call is run": ([*DELEGATED, STEP, called(CALL), GENERATED], RunToolCalls([CALL], [], [])),
    "whose call needs approval": ([*DELEGATED, STEP, called(OTHER), GENERATED], RequestApprovals([OTHER])),
    "and suspends the run": ([*DELEGATED, STEP, called(OTHER), GENERATED, asked(OTHER)], SuspendRun()),
    "whose half response is voided": ([*DELEGATED, STEP, TEXT[0]], VoidStep()),
    "whose step without calls is its last": (
        [*DELEGATED, *RESPONDED],
        CompleteDelegation(RESEARCH, complete=True),
    ),
    "whose incomplete response is generated again": ([*DELEGATED, STEP, END], CallModel()),
    "whose steps are limited": (
        [*DELEGATED, *(3 * [STEP, called(CALL), GENERATED, result(CALL), END])],
        CompleteDelegation(RESEARCH, complete=False),
    ),
    "when its output is there its caller goes on": ([*DELEGATED, *RESPONDED, result(RESEARCH)], CallModel()),
    "when one delegation is done the next begins": (
        [START, STEP, called(RESEARCH), called(AGAIN), GENERATED, END, *RESPONDED, result(RESEARCH)],
        CallModel(),
    ),
    "a caller that has no step left ends the message when its delegation is done": (
        [START, *(2 * RESPONDED), *DELEGATED[1:], *RESPONDED, result(RESEARCH)],
        FinishMessage("tool-calls"),
    ),
    "a handoff is run": ([START, STEP, called(BILLING), GENERATED], RunToolCalls([BILLING], [], [])),
    "a second handoff in one step is refused": (
        [START, STEP, called(BILLING), called(SALES), GENERATED],
        RunToolCalls([BILLING], [], [], ((SALES, decide.ALREADY_HANDED_OFF),)),
    ),
    "also when the first is done": (
        [START, STEP, called(BILLING), called(SALES), GENERATED, result(BILLING)],
        RunToolCalls([], [], [], ((SALES, decide.ALREADY_HANDED_OFF),)),
    ),
    "an agent that takes over has all its steps": (
        [START, *(2 * RESPONDED), STEP, called(BILLING), GENERATED, result(BILLING), END],
        CallModel(),
    ),
    "a handoff beyond the limit is refused": (
        [
            START,
            *(2 * [STEP, called(BILLING), GENERATED, result(BILLING), END]),
            STEP,
            called(SALES),
            GENERATED,
        ],
        RunToolCalls([], [], [], ((SALES, decide.TOO_MANY_HANDOFFS),)),
    ),
    "a delegation beyond the limit is refused": (
        [*DELEGATED, STEP, called(AGAIN), GENERATED],
        RunToolCalls([], [], [], ((AGAIN, decide.TOO_DEEP),)),
    ),
}


@pytest.mark.parametrize("name", WITH_OTHERS)
def test_transcript_with_others(name: str) -> None:
    log, expected = WITH_OTHERS[name]
    assert action(log) == expected


def test_an_interrupt_leaves_no_call_open_in_any_frame() -> None:
    state = state_of(*DELEGATED, STEP, called(CALL), called(OTHER), GENERATED)
    next_action = decide.next_action(
        state,
        DecisionInputs(turn=0, approvals={}, possibly_started=(), interrupted=True),
        Policy(lambda _: False, lambda _: True, max_steps=3),
    )
    assert next_action == decide.AbortRun([CALL, OTHER, RESEARCH])


def test_a_delegation_that_needs_approval_waits_for_it() -> None:
    ask = ToolCall(CallId("d"), "delegate_to_research", {"task": "x"})
    log = [START, STEP, called(ask), GENERATED]
    policy = Policy(lambda call: call.tool == ask.tool, lambda _: True, max_steps=3)

    def following(*more: Chunk | Mark, turn: int = 0, approved: bool | None = None) -> decide.Action:
        inputs = DecisionInputs(
            turn=turn, approvals={ask.id: approval(approved=approved)}, possibly_started=()
        )
        return decide.next_action(state_of(*log, *more), inputs, policy)

    answered = [asked(ask), END, chunks.Finish(), Mark.SUSPENDED, START]
    assert following() == RequestApprovals([ask])
    assert following(asked(ask)) == SuspendRun()
    yes = chunks.ToolApprovalResponse(approval_id=APPROVAL, approved=True)
    assert following(*answered, yes, turn=1, approved=True) == CallModel()
    no = chunks.ToolApprovalResponse(approval_id=APPROVAL, approved=False)
    assert following(*answered, no, turn=1, approved=False) == RunToolCalls([], [(ask, DENIED)], [])


# --------------------------------------------------------------------------------- typed answers

FITS: list[Chunk] = [output_chunk({"a": 1}), chunks.MessageMetadata({STATE_KEY: "done"})]
FAULT: list[Chunk] = [fault_chunk(OutputFault("no a")), chunks.MessageMetadata({STATE_KEY: "invalid"})]
CUT = chunks.MessageMetadata({STATE_KEY: "partial", "finishReason": "length"})
GENERATED = Mark.GENERATED
CLOSED = chunks.FinishStep()


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([STEP, *FITS, GENERATED, CLOSED], FinishMessage("stop")),
        ([STEP, *FAULT, GENERATED, CLOSED], CallModel()),
        ([STEP, *FAULT, GENERATED, CLOSED, STEP, *FITS, GENERATED, CLOSED], FinishMessage("stop")),
        ([STEP, *FAULT, GENERATED, CLOSED] * 2, FailOutput("stop")),
        ([STEP, CUT, GENERATED, CLOSED], FailOutput("length")),
        ([STEP, called(CALL), GENERATED, result(CALL), CLOSED] * 3, FailOutput("tool-calls")),
        ([STEP, *FITS, chunks.ResetStep(), *FAULT, GENERATED, CLOSED], CallModel()),
        ([STEP, *FITS, GENERATED], CloseStep()),
        ([STEP, *FITS], VoidStep()),
    ],
)
def test_a_run_with_an_output_type_ends_well_only_with_an_output(
    log: list[Chunk | Mark], expected: decide.Action
) -> None:
    policy = Policy(lambda _: False, lambda _: True, max_steps=3, output_retries=1)
    inputs = DecisionInputs(turn=0, approvals={}, possibly_started=())
    assert decide.next_action(state_of(START, *log), inputs, policy) == expected


def test_a_retry_counts_as_a_step() -> None:
    policy = Policy(lambda _: False, lambda _: True, max_steps=1, output_retries=5)
    inputs = DecisionInputs(turn=0, approvals={}, possibly_started=())
    state = state_of(START, STEP, *FAULT, GENERATED, CLOSED)
    assert decide.next_action(state, inputs, policy) == FailOutput("stop")


# ---------------------------------------------------------------------------------------------- steering

FASTER: MessageDict = {"id": "s", "role": "user", "parts": [{"type": "text", "text": "faster"}]}
STEERED = chunks.SteeringMessage("s", [chunks.SteeringText("faster")])
SPOKEN: list[Chunk | Mark] = [START, STEP, *TEXT, GENERATED, chunks.FinishStep()]
WORKING: list[Chunk | Mark] = [*CALLED, result(CALL), chunks.FinishStep()]


@pytest.mark.parametrize("log", [[START], WORKING, SPOKEN], ids=["first", "next", "last"])
def test_before_each_step_and_the_end_the_store_is_asked_for_steering(log: Sequence[Chunk | Mark]) -> None:
    assert action(log, steering=None) == FindSteering()
    assert action(log, steering=[FASTER]) == EmitSteering([FASTER])
    assert action([*log, STEERED], steering=None) == FindSteering()
    assert action([*log, STEERED], steering=[FASTER]) == CallModel()
    assert action([*log, STEERED]) == CallModel()


def test_a_step_reads_a_steering_message_once() -> None:
    log = [*SPOKEN, STEERED, STEP, *TEXT, GENERATED, chunks.FinishStep()]
    assert action(log, steering=[FASTER]) == FinishMessage("stop")


def test_a_void_step_keeps_the_steering_message_before_it() -> None:
    state = state_of(*SPOKEN, STEERED, STEP, TEXT[0], chunks.ResetStep())
    assert [part["type"] for part in state.message["parts"]][-2:] == ["steering-message", "step-start"]
    assert action([*SPOKEN, STEERED, STEP, TEXT[0], chunks.ResetStep()], steering=[FASTER]) == CallModel()


def test_only_between_steps_is_there_room_for_a_steering_message() -> None:
    logs: list[Sequence[Chunk | Mark]] = [[START, STEP], CALLED, [*CALLED, result(CALL)], ASKED, SUSPENDED]
    for log in logs:
        assert action(log, steering=[FASTER]) == action(log, steering=None) == action(log)


def test_a_message_that_has_no_step_left_is_the_next_turn() -> None:
    calls = [START, *(3 * [STEP, called(CALL), GENERATED, result(CALL), chunks.FinishStep()])]
    assert action(calls, steering=[FASTER]) == FinishMessage("tool-calls")
    answers = [START, *(3 * [STEP, *TEXT, GENERATED, chunks.FinishStep()])]
    assert action(answers, steering=[FASTER]) == FinishMessage("stop")


def test_an_agent_without_steps_reads_no_steering_message() -> None:
    assert action([START], steering=None, reads_steering=False) == CallModel()
    assert action(SPOKEN, steering=[FASTER], reads_steering=False) == FinishMessage("stop")


def test_what_ends_a_run_early_leaves_the_message_for_the_next_turn() -> None:
    assert action([*SPOKEN, chunks.Abort()], steering=[FASTER]) == FinishMessage("other")
    assert action([*WORKING, chunks.Error(error_text="x")], steering=[FASTER]) == FinishMessage("error")


def test_a_delegated_agent_does_not_read_what_the_user_says_to_the_conversation() -> None:
    delegated = ToolCall(CallId("g"), "delegate_to_aide", {"task": "look"})
    open_call = [START, STEP, called(delegated), GENERATED, chunks.FinishStep()]
    assert action(open_call, steering=[FASTER]) == CallModel()
    origin = {"rejoin": {"agent": "aide", "call": "g"}}
    inner = chunks.ToolInputAvailable("h", "weather", {"city": "Oslo"}, provider_metadata=origin)
    inside = [
        *open_call,
        STEP,
        inner,
        GENERATED,
        chunks.ToolOutputAvailable("h", "fine"),
        chunks.FinishStep(),
    ]
    assert action(inside, steering=[FASTER]) == CallModel()
    returned = [*inside, STEP, *TEXT, GENERATED, chunks.FinishStep(), result(delegated)]
    assert action(returned, steering=[FASTER]) == EmitSteering([FASTER])
