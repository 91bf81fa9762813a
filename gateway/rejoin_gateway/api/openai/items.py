"""Stored messages as the input items of OpenAI's responses. Pure.

The law is OpenAI's API reference. A message is one item, with the message's id. What an earlier answer did
beside talking (its reasoning, its tools) is in the output of the response that it was, and not here.
"""

from collections.abc import Sequence
from typing import Any

from rejoin_protocol import file_formats
from rejoin_protocol.events.fold import Part, UIMessage


def to_item(message: UIMessage) -> dict[str, Any]:
    """A message as an item."""
    role, parts = message["role"], message["parts"]
    content = _said(parts) if role == "assistant" else [one for part in parts if (one := _asked(part))]
    return {
        "id": message["id"],
        "type": "message",
        "role": role,
        "status": "completed",
        "content": content,
    }


def _said(parts: Sequence[Part]) -> list[dict[str, Any]]:
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]


def _asked(part: Part) -> dict[str, Any] | None:
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
    """Items as a list. `more`: whether it goes on behind the last of them."""
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": more,
    }
