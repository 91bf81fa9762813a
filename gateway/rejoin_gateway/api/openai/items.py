"""Stored messages as input items of OpenAI's responses (OpenAI API reference, "Input items"). Pure.

A message is one item with the message's id. Reasoning and tool calls of earlier answers are left out: they
are in the output of their own responses.
"""

from collections.abc import Sequence
from typing import Any

from rejoin_protocol import file_formats
from rejoin_protocol.events.fold import MessageDict, Part


def to_item(message: MessageDict) -> dict[str, Any]:
    """A message as an input item."""
    role, parts = message["role"], message["parts"]
    if role == "assistant":
        content = _output_content(parts)
    else:
        content = [item for part in parts if (item := _input_content(part))]
    return {
        "id": message["id"],
        "type": "message",
        "role": role,
        "status": "completed",
        "content": content,
    }


def _output_content(parts: Sequence[Part]) -> list[dict[str, Any]]:
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]


def _input_content(part: Part) -> dict[str, Any] | None:
    match part:
        case {"type": "text", "text": text}:
            return {"type": "input_text", "text": text}
        case {"type": "file", "url": url, "mediaType": file_formats.PDF, **more}:
            return {"type": "input_file", "file_url": url, "filename": more.get("filename")}
        case {"type": "file", "url": url}:
            return {"type": "input_image", "image_url": url, "file_id": None, "detail": "auto"}
        case _:
            return None


def to_page(items: Sequence[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """A page of a list. `more`: whether items follow behind the last one."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": more,
    }
