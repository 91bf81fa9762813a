"""Stored messages are converted to input items that OpenAI's types accept."""

from typing import Any

import pytest
from openai.types.responses import ResponseItem
from pydantic import TypeAdapter

from rejoin_gateway.api.openai.items import to_item, to_page
from rejoin_protocol.events.fold import MessageDict


def checked(item: dict[str, Any]) -> dict[str, Any]:
    """The item, after a check against the API reference."""
    TypeAdapter[Any](ResponseItem).validate_python(item)
    return item


def user(*parts: dict[str, Any]) -> MessageDict:
    return {"id": "u1", "role": "user", "parts": list(parts)}


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({"type": "text", "text": "hello"}, {"type": "input_text", "text": "hello"}),
        (
            {"type": "file", "url": "/api/files/x", "mediaType": "image/png", "filename": "cat.png"},
            {"type": "input_image", "image_url": "/api/files/x", "file_id": None, "detail": "auto"},
        ),
        (
            {"type": "file", "url": "/api/files/y", "mediaType": "application/pdf", "filename": "a.pdf"},
            {"type": "input_file", "file_url": "/api/files/y", "filename": "a.pdf"},
        ),
    ],
    ids=lambda one: one["type"],
)
def test_what_a_user_says_is_an_item_of_its_parts(part: dict[str, Any], expected: dict[str, Any]) -> None:
    item = checked(to_item(user(part, {"type": "data-note", "data": "no words for it"})))
    assert item == {
        "id": "u1",
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [expected],
    }


def test_of_an_answer_its_text_is_an_item() -> None:
    parts: list[dict[str, Any]] = [
        {"type": "step-start"},
        {"type": "reasoning", "text": "hm", "state": "done"},
        {"type": "text", "text": "It is ", "state": "done"},
        {"type": "tool-clock", "toolCallId": "c", "state": "output-available", "input": {}, "output": 5},
        {"type": "text", "text": "five.", "state": "done"},
    ]
    item = checked(to_item({"id": "a1", "role": "assistant", "parts": parts}))
    assert item["role"] == "assistant"
    assert [content["text"] for content in item["content"]] == ["It is five."]


def test_a_page_says_where_it_begins_and_ends_and_whether_it_goes_on() -> None:
    items = [{"id": name} for name in "abc"]
    assert to_page(items, more=True) == {
        "object": "list",
        "data": items,
        "first_id": "a",
        "last_id": "c",
        "has_more": True,
    }
    assert to_page([], more=False)["last_id"] is None
