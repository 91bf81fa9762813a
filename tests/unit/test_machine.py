"""The machine, as transcripts: what the log says, what is decided, what is done next."""

from collections.abc import Sequence

import pytest

from protocol import chunks
from protocol.adapters.ports import Approval, Decision, Question
from protocol.chunks import Chunk
from protocol.ids import ApprovalId, CallId
from protocol.lifecycle import State
from protocol.log import Mark
from runner import machine
from runner.machine import (
    Act,
    Ask,
    Books,
    CloseStep,
    Facts,
    Finish,
    Generate,
    Leave,
    Open,
    Policy,
    Reopen,
    Reset,
    Suspend,
)
from runner.standing import Call, Standing

START = chunks.Start(message_id="m")
STEP = chunks.StartStep()
TEXT = [chunks.TextStart(id="t"), chunks.TextDelta(id="t", delta="hi"), chunks.TextEnd(id="t")]
CALL = Call(CallId("c"), "weather", {"city": "Paris"})
OTHER = Call(CallId("d"), "delete", {"file": "x"})
APPROVAL = ApprovalId("a")


def called(call: Call) -> Chunk:
    return chunks.ToolInputAvailable(tool_call_id=call.id, tool_name=call.tool, input=call.input)


def result(call: Call) -> Chunk:
    return chunks.ToolOutputAvailable(tool_call_id=call.id, output="fine")


def asked(call: Call) -> Chunk:
    return chunks.ToolApprovalRequest(approval_id=APPROVAL, tool_call_id=call.id)


def standing(*entries: Chunk | Mark) -> Standing:
    """A log, as the facts that are read from it."""
    one = Standing()
    for entry in entries:
        if isinstance(entry, Mark):
            one.mark(entry)
        else:
            one.emit(entry)
    return one


def approval(*, approved: bool | None) -> Approval:
    decision = None if approved is None else Decision(APPROVAL, approved)
    return Approval(Question(APPROVAL, OTHER.id, OTHER.tool, OTHER.input), decision, 0)


def action(
    log: Sequence[Chunk | Mark],
    *,
    turn: int = 0,
    approvals: Sequence[Approval] = (),
    taken_over: bool = False,
) -> machine.Action:
    """What is next, if `delete` needs approval and is not to be repeated."""
    facts = standing(*log)
    return machine.next_action(
        facts,
        Facts(
            turn=turn,
            approvals={one.question.call: one for one in approvals},
            inherited=machine.inherited(facts) if taken_over else (),
        ),
        Policy(lambda call: call.tool == "delete", lambda call: call.tool != "delete", steps_max=3),
    )


GENERATED = Mark.GENERATED
CALLED = [START, STEP, called(CALL), GENERATED]
ASKED = [START, STEP, called(OTHER), GENERATED, asked(OTHER)]
SUSPENDED = [*ASKED, chunks.FinishStep(), chunks.Finish(), Mark.SUSPENDED]
REOPENED = [*SUSPENDED, START]

TRANSCRIPTS: dict[str, tuple[Sequence[Chunk | Mark], machine.Action]] = {
    "an empty log is opened": ([], Open()),
    "a message without a step asks the model": ([START], Generate()),
    "a step without output asks the model again": ([START, STEP], Generate()),
    "a half response is voided": ([START, STEP, TEXT[0]], Reset()),
    "a whole response that was not marked is voided too": ([START, STEP, *TEXT], Reset()),
    "a voided step asks the model": ([START, STEP, TEXT[0], chunks.ResetStep()], Generate()),
    "a response without calls closes the step": ([START, STEP, *TEXT, GENERATED], CloseStep()),
    "a closed step without calls is the end": (
        [START, STEP, *TEXT, GENERATED, chunks.FinishStep()],
        Finish("stop"),
    ),
    "a call is run": (CALLED, Act([CALL], [], [])),
    "a call with a result closes the step": ([*CALLED, result(CALL)], CloseStep()),
    "a closed step with calls asks the model": ([*CALLED, result(CALL), chunks.FinishStep()], Generate()),
    "too many steps end the message": (
        [START, *(3 * [STEP, called(CALL), GENERATED, result(CALL), chunks.FinishStep()])],
        Finish("tool-calls"),
    ),
    "a call that needs a word asks for it": ([START, STEP, called(OTHER), GENERATED], Ask([OTHER])),
    "other calls run before the run waits": (
        [START, STEP, called(CALL), called(OTHER), GENERATED, asked(OTHER)],
        Act([CALL], [], []),
    ),
    "when every open call waits the run is suspended": (ASKED, Suspend()),
    "a suspended log is left": (SUSPENDED, Leave()),
    "an error is finished": ([START, STEP, chunks.Error(error_text="x")], Finish("error")),
    "an abort is finished": ([START, chunks.Abort()], Finish("other")),
    "a complete log goes to the books": ([START, chunks.Finish(), Mark.ENDED], Books(State.COMPLETED)),
    "a complete failure too": (
        [START, chunks.Error(error_text="x"), chunks.Finish(), Mark.ENDED],
        Books(State.FAILED),
    ),
    "a complete abort too": ([START, chunks.Abort(), chunks.Finish(), Mark.ENDED], Books(State.CANCELLED)),
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    log, expected = TRANSCRIPTS[name]
    assert action(log) == expected


@pytest.mark.parametrize(
    ("approved", "expected"),
    [
        (True, Act([OTHER], [], [])),
        (False, Act([], [(OTHER, Decision(APPROVAL, approved=False))], [])),
        (None, Suspend()),
    ],
)
def test_a_decision_says_what_becomes_of_the_call(*, approved: bool | None, expected: machine.Action) -> None:
    assert action(REOPENED, turn=1, approvals=[approval(approved=approved)]) == expected


def test_the_decisions_that_the_log_does_not_have_open_the_turn() -> None:
    known = approval(approved=True)
    assert action(SUSPENDED, turn=1, approvals=[known]) == Reopen([Decision(APPROVAL, approved=True)])


def test_a_decision_that_the_log_has_is_not_said_twice() -> None:
    said = [*REOPENED, chunks.ToolApprovalResponse(approval_id=APPROVAL, approved=True)]
    suspended_again = [*said, chunks.Finish(), Mark.SUSPENDED]
    assert action(suspended_again, turn=2, approvals=[approval(approved=True)]) == Reopen([])


def test_an_inherited_call_runs_again_if_its_tool_may() -> None:
    assert action(CALLED, taken_over=True) == Act([CALL], [], [])


def test_an_inherited_call_that_may_not_run_again_is_of_unknown_outcome() -> None:
    approvals = [approval(approved=True)]
    assert action(REOPENED, turn=1, approvals=approvals, taken_over=True) == Act([], [], [OTHER])


def test_the_calls_of_a_suspended_run_were_not_started_by_anybody() -> None:
    assert machine.inherited(standing(*SUSPENDED)) == frozenset()


def test_the_calls_of_a_response_that_was_cut_off_were_not_started_by_anybody() -> None:
    assert machine.inherited(standing(START, STEP, called(CALL))) == frozenset()


def test_a_call_with_a_preliminary_result_is_still_open() -> None:
    half = chunks.ToolOutputAvailable(tool_call_id=CALL.id, output="…", preliminary=True)
    assert action([*CALLED, half]) == Act([CALL], [], [])
