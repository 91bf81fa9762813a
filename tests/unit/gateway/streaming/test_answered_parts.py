"""Answers in stored messages: only a waiting call of the very run is changed."""

import pytest

from rejoin_adapters.answer_events import APPROVAL_EXPIRED, CLIENT_FAILED, OUTPUT_EXPIRED
from rejoin_adapters.store_types import Approval, ApprovalRequest, AskedCall, Decision, RequestKind, Run
from rejoin_gateway.streaming.answered_parts import has_waiting_calls, with_answers
from rejoin_protocol.events.fold import MessageDict, Part
from rejoin_protocol.ids import AgentName, ApprovalId, CallId, MessageId, RunId, SessionId, TenantId
from rejoin_protocol.lifecycle import State

ASKED = {"state": "approval-requested", "approval": {"id": "apr_1_0"}}


def call(**fields: object) -> Part:
    return {"type": "tool-rm", "toolCallId": "c0", "state": "input-available", "input": {}} | fields


def message(*parts: Part, id: str = "msg_1") -> MessageDict:
    return {"id": id, "role": "assistant", "parts": [{"type": "step-start"}, *parts]}


def asked(decision: Decision, kind: RequestKind = "approval", *, expired: bool = False) -> AskedCall:
    request = ApprovalRequest(ApprovalId("apr_1_0"), CallId("c0"), "rm", {}, kind=kind)
    who = TenantId("t"), SessionId("s"), AgentName("a"), MessageId("msg_1")
    run = Run(RunId("run_1"), *who, State.SUSPENDED, ready=True, turn=0, attempt=1)
    return AskedCall(Approval(request, decision, 0, expired), run)


def shown(part: Part, answered: AskedCall) -> Part:
    [found] = with_answers([message(part)], [answered])
    last: Part = found["parts"][-1]
    return last


@pytest.mark.feature("F61")
def test_an_answer_that_time_has_given_says_so() -> None:
    no = Decision(ApprovalId("apr_1_0"), False)
    denied = {"id": "apr_1_0", "approved": False, "reason": APPROVAL_EXPIRED}
    assert shown(call(**ASKED), asked(no, expired=True)) == call(state="approval-responded", approval=denied)
    late = shown(call(), asked(no, "tool-output", expired=True))
    assert late == call(state="output-error", errorText=OUTPUT_EXPIRED)
    assert shown(call(), asked(no, "tool-output"))["errorText"] == CLIENT_FAILED


@pytest.mark.parametrize(
    "part",
    [
        call(state="output-available", output=1),
        call(state="approval-requested", approval={"id": "apr_1_1"}),
        call(),
        call(**ASKED, toolCallId="c1"),
    ],
)
def test_a_call_that_does_not_wait_for_this_answer_stays_as_it_is(part: Part) -> None:
    assert shown(part, asked(Decision(ApprovalId("apr_1_0"), True))) == part


def test_an_answer_of_another_run_changes_nothing() -> None:
    other = message(call(**ASKED), id="msg_2")
    assert with_answers([other], [asked(Decision(ApprovalId("apr_1_0"), True))]) == [other]


def test_only_an_answer_whose_calls_are_open_waits() -> None:
    assert has_waiting_calls(message(call()))
    assert has_waiting_calls(message(call(**ASKED)))
    assert not has_waiting_calls(message(call(state="output-denied")))
    assert not has_waiting_calls(message(call()) | {"role": "user"})
