"""How many tokens a message has for a model, estimated."""

from collections.abc import Iterator
from typing import Any

import msgspec
from rejoin_protocol.events.fold import UIMessage, is_tool, tool_name

TOKEN_CHARS = 4
"""A rough measure, and good enough for a limit that is set with some room."""


FILE_TOKENS = 1_500
"""Of an image or a document, whose size says little about it."""


def estimate_tokens(message: UIMessage) -> int:
    """About how many tokens a message is for a model."""
    files = sum(_files(part) for part in message["parts"])
    chars = sum(len(words) for part in message["parts"] for words in texts_of_part(part))
    return chars // TOKEN_CHARS + files * FILE_TOKENS


def estimate_text_tokens(text: str) -> int:
    """About how many tokens a text is for a model."""
    return len(text) // TOKEN_CHARS


def texts_of_part(part: dict[str, Any]) -> Iterator[str]:
    """What of a part a model reads, as text."""
    if part["type"] in ("text", "reasoning"):
        yield part["text"]
    elif is_tool(part):
        yield tool_name(part)
        yield _json(part.get("input"))
        yield part["errorText"] if "errorText" in part else _output(part.get("output"))


def _output(value: Any) -> str:
    """A tool's output without the bytes of its files."""
    if isinstance(value, dict) and value.get("type") == "content" and isinstance(value.get("value"), list):
        items = [item for item in value["value"] if isinstance(item, dict)]
        return " ".join(str(item.get("text", "[file]")) for item in items)
    return _json(value)


def _files(part: dict[str, Any]) -> int:
    """How many files a model is given with a part."""
    output = part.get("output")
    if not isinstance(output, dict) or output.get("type") != "content":
        return int(part["type"] == "file")
    items = output.get("value")
    return sum("text" not in item for item in items) if isinstance(items, list) else 0


def _json(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
