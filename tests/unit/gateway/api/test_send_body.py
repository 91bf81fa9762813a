"""`parse_send_body`: all forms of the session API's body, and the JSON pointers of errors."""

from typing import Any

import pytest

from rejoin_adapters.store_types import WhenBusy
from rejoin_gateway.api.sessions.send_body import Decisions, NewMessage, parse_send_body
from rejoin_gateway.core.answered_calls import AnsweredCall
from rejoin_gateway.core.message_input import MessageOptions
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import ApprovalId, CallId

TEXT = {"type": "text", "text": "hello"}
MESSAGE = {"id": "m1", "role": "user", "parts": [TEXT]}
APPROVAL = {"type": "approval", "approval": {"approvalId": "a1", "approved": True, "reason": "fine"}}


@pytest.mark.parametrize(
    ("body", "pointer", "id"),
    [
        ("hello", "", "new"),
        ([TEXT], "", "new"),
        (MESSAGE, "", "m1"),
        ({"parts": [TEXT]}, "", "new"),
        ({"id": "m1", "parts": [TEXT]}, "", "m1"),
        ({"message": "hello"}, "/message", "new"),
        ({"message": [TEXT]}, "/message", "new"),
        ({"message": MESSAGE}, "/message", "m1"),
        ({"messages": [{"role": "assistant"}, MESSAGE]}, "/messages/1", "m1"),
        (["hello"], "/0", "new"),
        ([{"message": MESSAGE}], "/0/message", "m1"),
    ],
)
def test_a_message_has_many_forms(body: Any, pointer: str, id: str) -> None:
    parsed = parse_send_body(body, "new")
    assert isinstance(parsed, NewMessage)
    located = parsed.located
    assert (located.pointer, located.message.id, located.message.parts) == (pointer, id, [TEXT])


def test_several_messages_are_one_turn() -> None:
    """Id and metadata are the last one's; each part keeps its place in the body."""
    again = {"type": "text", "text": "again"}
    last = {"id": "m2", "role": "user", "parts": [again, TEXT], "metadata": {"a": 1}}
    body = ["hello", {"message": MESSAGE, "whenBusy": "interrupt"}, {"message": [again]}, {"message": last}]
    parsed = parse_send_body(body, "new")
    assert isinstance(parsed, NewMessage)
    message = parsed.located.message
    assert (message.id, message.metadata) == ("m2", {"a": 1})
    assert message.parts == [TEXT, TEXT, again, again, TEXT]
    assert parsed.located.places == [
        "/0",
        "/1/message/parts/0",
        "/2/message/0",
        "/3/message/parts/0",
        "/3/message/parts/1",
    ]
    assert parsed.options.busy_policy is WhenBusy.INTERRUPT


def test_of_several_messages_the_last_context_counts() -> None:
    body = [{"message": "a", "context": {"a": 1}}, {"message": "b", "context": {"a": 2}}, "c"]
    parsed = parse_send_body(body, "new")
    assert isinstance(parsed, NewMessage)
    assert parsed.context == {"a": 2}
    assert parsed.options == MessageOptions()


def test_options_and_context_stand_beside_the_message() -> None:
    parsed = parse_send_body({"message": "hello", "whenBusy": "reject", "context": {"a": 1}}, "new")
    assert isinstance(parsed, NewMessage)
    assert (parsed.options.busy_policy, parsed.context) == (WhenBusy.REJECT, {"a": 1})


def test_decisions_are_one_or_several() -> None:
    answer = AnsweredCall(ApprovalId("a1"), None, approved=True, reason="fine")
    assert parse_send_body(APPROVAL, "new") == Decisions([answer], [])
    assert parse_send_body([APPROVAL, APPROVAL], "new") == Decisions([answer, answer], [])


@pytest.mark.parametrize("body", [[APPROVAL, MESSAGE], [MESSAGE, APPROVAL], [APPROVAL, {"message": MESSAGE}]])
def test_decisions_beside_a_message_belong_to_it(body: Any) -> None:
    parsed = parse_send_body(body, "new")
    assert isinstance(parsed, NewMessage)
    assert parsed.located.message.id == "m1"
    answer = AnsweredCall(ApprovalId("a1"), None, approved=True, reason="fine")
    assert parsed.decisions == Decisions([answer], [])


def test_the_answers_of_a_page_that_sends_all_of_its_messages() -> None:
    """In the last message, or in those of the assistant directly before a new one."""
    part = {"type": "tool-x", "toolCallId": "c", "state": "approval-responded"}
    said = {
        "id": "a",
        "role": "assistant",
        "parts": [TEXT, part | {"approval": {"id": "a1", "approved": True}}],
    }
    answer = AnsweredCall(ApprovalId("a1"), CallId("c"), approved=True, reason=None)
    assert parse_send_body({"messages": [MESSAGE, said]}, "new") == Decisions([answer], [])
    for messages in ([MESSAGE, said, MESSAGE], [said, "odd", {"role": "assistant"}, said, MESSAGE]):
        parsed = parse_send_body({"messages": messages}, "new")
        assert isinstance(parsed, NewMessage)
        assert (parsed.answers, parsed.located.message.id) == ([answer], "m1")
    parsed = parse_send_body({"messages": [said, MESSAGE, MESSAGE]}, "new")
    assert isinstance(parsed, NewMessage)
    assert parsed.answers == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (5, ""),
        ({}, ""),
        ([], ""),
        ([{"message": 5}], "/0/message"),
        ({"messages": [{"role": "assistant", "id": "a", "parts": []}]}, "/messages/0"),
        ({"message": "hello", "whenBusy": "later"}, ""),
        ({"type": "approval"}, "/approval"),
        ([APPROVAL, {"type": "approval", "approval": {"approvalId": "a1"}}], "/1/approval"),
    ],
)
def test_other_bodies_are_refused_with_a_pointer(body: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_send_body(body, "new")
    assert refused.value.pointer == pointer
