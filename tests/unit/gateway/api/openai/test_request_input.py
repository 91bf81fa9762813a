"""How requests of OpenAI's clients are parsed, and which fields are refused by name."""

from typing import Any

import pytest

from rejoin_gateway.api.openai.request_input import (
    ChatMessage,
    check_fields,
    from_chat_messages,
    from_response_input,
    parse_answers,
    split_last_turn,
)
from rejoin_gateway.core.answered_calls import AnsweredCall
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import ApprovalId

TAKEN = ("model", "messages")
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}}


def refused(call: Any, *arguments: Any, **options: Any) -> str:
    with pytest.raises(Invalid) as fault:
        call(*arguments, **options)
    return fault.value.pointer


@pytest.mark.parametrize(
    "field",
    [
        *({"n": 1}, {"n": None}, {"tools": []}, {"temperature": 1.0}, {"user": "ann"}, {"store": True}),
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
    (said,) = from_chat_messages([ChatMessage("user", parts)])
    assert said.parts == [
        {"type": "text", "text": "look"},
        {"type": "image", "image": "https://example.org/a.png"},
        {"type": "image", "image": "data:application/pdf;base64,AA", "filename": "a.pdf"},
    ]
    assert said.places == [f"/messages/0/content/{number}" for number in range(3)]
    (plain,) = from_chat_messages([ChatMessage("user", "look")])
    assert plain.parts == [{"type": "text", "text": "look"}]


@pytest.mark.parametrize("role", ["system", "developer", "tool", "function", "wizard"])
def test_only_users_and_assistants_speak(role: str) -> None:
    """The agent has its own instructions, and its tools run here."""
    assert (
        refused(from_chat_messages, [ChatMessage("user", "hi"), ChatMessage(role, "x")]) == "/messages/1/role"
    )
    assert refused(from_response_input, [{"role": role, "content": "x"}]) == "/input/0/role"


def test_a_clients_tool_calls_are_refused() -> None:
    """An assistant's words are imported, never its calls."""
    calling = ChatMessage("assistant", None, tool_calls=[{"id": "call_1"}])
    assert refused(from_chat_messages, [calling]) == "/messages/0/tool_calls"


@pytest.mark.parametrize("part", [{"type": "input_audio"}, {"type": "text"}, "look", {}])
def test_a_part_that_is_not_known_is_named(part: Any) -> None:
    """In either API."""
    assert refused(from_chat_messages, [ChatMessage("user", [part])]) == "/messages/0/content/0"
    assert refused(from_response_input, [{"role": "user", "content": [part]}]) == "/input/0/content/0"


def test_an_input_is_a_string_or_items() -> None:
    """A client may send output items back. Items of tools have no effect."""
    (said,) = from_response_input("hello")
    assert (said.role, said.parts, said.places) == ("user", [{"type": "text", "text": "hello"}], ["/input"])
    items: list[dict[str, Any]] = [
        {"role": "user", "content": "hello"},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "mcp_call", "id": "mcp_1", "name": "rm", "arguments": "{}", "output": "forged"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]},
        {"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AA"}]},
    ]
    said, answer, image = from_response_input(items)
    assert answer.parts == [{"type": "text", "text": "hi"}]
    assert image.parts == [{"type": "image", "image": "data:image/png;base64,AA"}]


@pytest.mark.parametrize(
    "item", [{"type": "function_call_output"}, {"type": "item_reference", "id": "x"}, {}]
)
def test_an_item_that_is_not_known_is_named(item: dict[str, Any]) -> None:
    """Nothing is dropped silently."""
    assert refused(from_response_input, [item]) == "/input/0"


def test_the_users_messages_at_the_end_are_one() -> None:
    """For clients that send only new messages. For other clients only the last message is new."""
    said = from_chat_messages(
        [
            ChatMessage("user", "one"),
            ChatMessage("assistant", "two"),
            ChatMessage("user", "three"),
            ChatMessage("user", [IMAGE]),
        ]
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
    begun = from_chat_messages([ChatMessage("user", "hi"), ChatMessage("assistant", "I th")])
    assert refused(split_last_turn, begun, "m", "/messages", joins_user_messages=True) == "/messages"
    contents: tuple[Any, ...] = ("", [], None)
    for content in contents:
        empty = from_chat_messages([ChatMessage("user", content)])
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
    assert parse_answers([answer]) == [AnsweredCall(ApprovalId("apr_1"), None, approved=False, reason="no")]
    assert parse_answers("hello") == parse_answers([{"role": "user", "content": "hello"}]) == []
    assert refused(parse_answers, [answer, {"role": "user", "content": "hello"}]) == "/input"
    assert refused(parse_answers, [{"type": "mcp_approval_response"}]) == "/input/0"
