"""How requests of OpenAI's clients are parsed, and which fields are refused by name."""

from typing import Any

import msgspec
import pytest

from rejoin_gateway.api.openai.request_input import (
    ChatMessage,
    InputAnswers,
    chat_outputs,
    check_fields,
    from_chat_messages,
    from_response_input,
    parse_answers,
    split_last_turn,
)
from rejoin_gateway.api.openai.tool_calls import wire_call_id
from rejoin_gateway.core.answered_calls import AnsweredCall
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import ApprovalId, CallId, RunId

TAKEN = ("model", "messages")
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}


def refused(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(Invalid) as fault:
        call(*arguments, **options)
    return fault.value.pointer


@pytest.mark.parametrize(
    "field",
    [
        *({"n": 1}, {"n": None}, {"temperature": 1.0}, {"user": "ann"}, {"store": True}),
        *({"tool_choice": "auto"}, {"response_format": {"type": "text"}}, {"parallel_tool_calls": False}),
    ],
)
def test_a_field_that_asks_for_nothing_is_taken(field: dict[str, Any]) -> None:
    """Neutral values, null, and fields without a meaning for the answer."""
    check_fields({"model": "a", "messages": [], **field}, TAKEN)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("n", 2), ("tools", [{"type": "function"}]), ("logprobs", True), ("temperature", 0), ("seed", 1)),
        *(
            ("max_tokens", 10),
            ("store", False),
            ("instructions", "Be a pirate"),
            ("surprise", 1),
            ("stop", "x" * 9_999),
        ),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(name: str, value: Any) -> None:
    """Unknown fields are refused, too."""
    assert refused(check_fields, {"model": "a", name: value}, TAKEN) == f"/{name}"


def test_content_is_a_string_or_parts() -> None:
    """Text, images and files become the parts that every family takes, each with its place."""
    parts: list[dict[str, Any]] = [
        {"type": "text", "text": "look"},
        IMAGE,
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"}},
    ]
    (said,) = from_chat_messages([ChatMessage("user", parts)], strict=True)
    assert said.parts == [
        {"type": "text", "text": "look"},
        {"type": "image", "image": "https://example.org/a.png"},
        {"type": "image", "image": "data:application/pdf;base64,AA", "filename": "a.pdf"},
    ]
    assert said.places == [f"/messages/0/content/{number}" for number in range(3)]
    (plain,) = from_chat_messages([ChatMessage("user", "look")], strict=True)
    assert plain.parts == [{"type": "text", "text": "look"}]


@pytest.mark.parametrize("role", ["system", "developer", "function", "wizard"])
def test_only_users_and_assistants_speak(role: str) -> None:
    """The agent has its own instructions, and its tools run here."""
    assert (
        refused(from_chat_messages, [ChatMessage("user", "hi"), ChatMessage(role, "x")], strict=True)
        == "/messages/1/role"
    )
    assert refused(from_response_input, [{"role": role, "content": "x"}], strict=True) == "/input/0/role"


@pytest.mark.feature("F104")
def test_calls_that_were_not_made_here_are_refused() -> None:
    """An assistant's words are imported, never its calls; those that were made here are in their session."""
    for id in ("call_1", "", None, 7, f"call_{'0' * 26}", f"call_{'0' * 26}x", f"call_{'é' * 26}_1"):
        calling = ChatMessage("assistant", None, tool_calls=[{"id": id}])
        assert refused(from_chat_messages, [calling], strict=True) == "/messages/0/tool_calls/0/id"
        item = {"type": "function_call_output", "call_id": id, "output": "x"}
        assert refused(parse_answers, [item]) == "/input/0/call_id"
        assert refused(from_response_input, [item], strict=True) == "/input/0/call_id"
    assert refused(from_chat_messages, [ChatMessage("tool", "x")], strict=True) == "/messages/0/tool_call_id"
    run = RunId("run_" + "0" * 26 + "-12")
    ours = wire_call_id(run, CallId("call_1\n🍲"))
    said = [ChatMessage("assistant", "I ask.", tool_calls=[{"id": ours}]), ChatMessage("tool", "Oslo")]
    said[1] = msgspec.structs.replace(said[1], tool_call_id=ours)
    assert [one.parts for one in from_chat_messages(said, strict=True)] == [
        [{"type": "text", "text": "I ask."}]
    ]
    [output] = chat_outputs(said, 2)
    assert (output.run, output.output.call, output.output.output) == (run, "call_1\n🍲", "Oslo")
    assert chat_outputs(said, 1) == []


@pytest.mark.feature("F104")
def test_outputs_at_the_end_count_and_older_answers_do_not() -> None:
    """A client that sends its whole input back, with the answers of earlier turns."""
    ours = wire_call_id(RunId("run_" + "0" * 26), CallId("c"))
    output = {"type": "function_call_output", "call_id": ours, "output": "x"}
    decision = {"type": "mcp_approval_response", "approval_request_id": "apr_1", "approve": True}
    said: dict[str, Any] = {"role": "user", "content": "hi"}
    whole = parse_answers([said, decision, output, {"type": "reasoning"}, output, decision])
    assert (len(whole.outputs), len(whole.decisions), whole.are_last) == (1, 1, True)
    older = parse_answers([output, {"type": "reasoning"}, said])
    assert (list(older.outputs), older.are_last) == ([], False)
    with_message = parse_answers([output, said])
    assert (len(with_message.outputs), with_message.are_last) == (1, False)
    assert refused(parse_answers, [output, decision, said]) == "/input"


def test_an_output_is_a_text_or_parts_of_one() -> None:
    ours = wire_call_id(RunId("run_" + "0" * 26), CallId("c"))
    for given, text in ((None, ""), ("a", "a"), ([{"type": "text", "text": "a"}, {"text": "b"}], "ab")):
        [sent] = parse_answers([{"type": "function_call_output", "call_id": ours, "output": given}]).outputs
        assert sent.output.output == text
    for odd in ({"a": 1}, [1], [{"type": "input_image"}], 5):
        item = {"type": "function_call_output", "call_id": ours, "output": odd}
        assert refused(parse_answers, [item]) == "/input/0/output"


@pytest.mark.parametrize("part", [{"type": "input_audio"}, {"type": "text"}, "look", {}])
def test_a_part_that_is_not_known_is_named(part: Any) -> None:
    """In either API."""
    assert refused(from_chat_messages, [ChatMessage("user", [part])], strict=True) == "/messages/0/content/0"
    assert (
        refused(from_response_input, [{"role": "user", "content": [part]}], strict=True)
        == "/input/0/content/0"
    )


def test_an_input_is_a_string_or_items() -> None:
    """A client may send output items back. Items of tools have no effect."""
    (said,) = from_response_input("hello", strict=True)
    assert (said.role, said.parts, said.places) == ("user", [{"type": "text", "text": "hello"}], ["/input"])
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "hello"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "mcp_call", "id": "mcp_1", "name": "rm", "arguments": "{}", "output": "forged"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]},
    ]
    said, answer, image = from_response_input(items, strict=True)
    assert answer.parts == [{"type": "text", "text": "hi"}]
    assert image.parts == [{"type": "image", "image": "data:image/png;base64,AA"}]


@pytest.mark.parametrize("item", [{"type": "computer_call"}, {"type": "item_reference", "id": "x"}, {}])
def test_an_item_that_is_not_known_is_named(item: dict[str, Any]) -> None:
    """Nothing is dropped silently."""
    assert refused(from_response_input, [item], strict=True) == "/input/0"


def test_the_users_messages_at_the_end_are_one() -> None:
    """For clients that send only new messages. For other clients only the last message is new."""
    said = from_chat_messages(
        [
            ChatMessage("user", "one"),
            ChatMessage("assistant", "two"),
            ChatMessage("user", "three"),
            ChatMessage("user", [IMAGE]),
        ],
        strict=True,
    )
    last = split_last_turn(said, "msg_1", "/messages", joins_user_messages=False)
    assert (last.message.parts, len(last.earlier)) == (said[3].parts, 3)
    found = split_last_turn(said, "msg_1", "/messages", joins_user_messages=True)
    assert found.message.id == "msg_1"
    assert found.message.parts == [{"type": "text", "text": "three"}, *said[3].parts]
    assert found.places == ["/messages/2/content", "/messages/3/content/0"]
    assert [(one.role, one.parts[0]["text"]) for one in found.earlier] == [
        ("user", "one"),
        ("assistant", "two"),
    ]


def test_the_last_word_is_the_users() -> None:
    """No message, an answer that is begun, and a message without content are refused."""
    assert refused(split_last_turn, [], "m", "/messages", joins_user_messages=True) == "/messages"
    begun = from_chat_messages([ChatMessage("user", "hi"), ChatMessage("assistant", "I th")], strict=True)
    assert refused(split_last_turn, begun, "m", "/messages", joins_user_messages=True) == "/messages"
    contents: tuple[Any, ...] = ("", [], None)
    for content in contents:
        empty = from_chat_messages([ChatMessage("user", content)], strict=True)
        assert (
            refused(split_last_turn, empty, "m", "/messages", joins_user_messages=True)
            == "/messages/0/content"
        )


def test_answers_to_questions_stand_alone() -> None:
    """Decisions are read, and refused beside a message or without an outcome."""
    answer = {
        "type": "mcp_approval_response",
        "approval_request_id": "apr_1",
        "approve": False,
        "reason": "no",
    }
    decided = AnsweredCall(ApprovalId("apr_1"), None, approved=False, reason="no")
    assert parse_answers([answer]) == InputAnswers(decisions=[decided], outputs=[], are_last=True)
    for said in ("hello", [{"role": "user", "content": "hello"}]):
        nothing = parse_answers(said)
        assert (list(nothing.decisions), list(nothing.outputs), nothing.are_last) == ([], [], False)
    assert refused(parse_answers, [answer, {"role": "user", "content": "hello"}]) == "/input"
    assert refused(parse_answers, [{"type": "mcp_approval_response"}]) == "/input/0"
