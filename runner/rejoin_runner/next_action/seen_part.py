"""Cuts an interrupted answer to what its user had seen of it. Pure.

The log keeps everything: streams and resumes deliver it. The history holds what was seen, and so does every
later call of a model: it must not rely on words that the user never read. What the user said during the run
stays.
"""

from collections.abc import Mapping
from typing import Any

from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import STEERING_PART


def cut_behind(message: MessageDict, seen: Mapping[str, Any]) -> MessageDict:
    """The message up to the part `seen`, with as much of its text as `seen` has. `seen` is a part as the
    client had it. A message without such a part stays whole.
    """
    parts = message["parts"]
    number = next((n for n in range(len(parts) - 1, -1, -1) if _is_same(parts[n], seen)), None)
    if number is None:
        return message
    last = parts[number]
    if "text" in last:
        last = {**last, "text": seen["text"]}
    said = [part for part in parts[number + 1 :] if part["type"] == STEERING_PART]
    return {**message, "parts": [*parts[:number], last, *said]}


def _is_same(part: Mapping[str, Any], seen: Mapping[str, Any]) -> bool:
    """Whether `seen` is an earlier or the same state of a part."""
    if part["type"] != seen.get("type"):
        return False
    if "text" in part:
        text = seen.get("text")
        return isinstance(text, str) and bool(text) and part["text"].startswith(text)
    if "toolCallId" in part:
        return bool(part["toolCallId"] == seen.get("toolCallId"))
    if "id" in part or "id" in seen:
        return part.get("id") == seen.get("id")
    return bool(part == seen)
