"""Messages in the forms that the run and graph families take them: `content`, `parts`, or both. Pure.

`content` is a string or a list of parts; a string is put before the parts, unless one of them says just that.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from rejoin_protocol.errors import Invalid

from rejoin_gateway.core.message_input import ClientMessage


class RunMessage(msgspec.Struct, frozen=True):
    """One item of `messages`."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    parts: list[dict[str, Any]] | None = None
    id: str | None = None


def parts_of(said: RunMessage) -> list[dict[str, Any]]:
    """Everything it says, as parts."""
    parts = [*said.parts] if said.parts is not None else []
    if isinstance(said.content, list):
        return [*said.content, *parts]
    if said.content:
        text = {"type": "text", "text": said.content}
        spoken = any(part.get("type") == "text" and part.get("text") == said.content for part in parts)
        return parts if spoken else [text, *parts]
    return parts


def part_pointers(said: RunMessage, pointer: str) -> list[str]:
    """Where each of `parts_of` was written, in a message at `pointer`."""
    own = [f"{pointer}/parts/{number}" for number in range(len(said.parts or ()))]
    if isinstance(said.content, list):
        return [*(f"{pointer}/content/{number}" for number in range(len(said.content))), *own]
    return own if len(parts_of(said)) == len(own) else [f"{pointer}/content", *own]


def last_user_message(messages: Sequence[RunMessage], fresh: str) -> tuple[ClientMessage, int]:
    """The user's new message, and its place: the last one that is a user's. Raises `Invalid`."""
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].role == "user":
            return to_client_message(messages[number], fresh), number
    raise Invalid("messages holds at least one message of the user's", "/messages")


def to_client_message(said: RunMessage, fresh: str) -> ClientMessage:
    """A message as the AI SDK writes it. One without an id gets `fresh`."""
    role = said.role if said.role in ("system", "user", "assistant") else "assistant"
    return ClientMessage(said.id or fresh, role, parts_of(said))  # type: ignore[arg-type]


def earlier_messages(messages: Sequence[RunMessage], number: int) -> list[ClientMessage]:
    """What was said before message `number`, for a session that is new."""
    return [to_client_message(one, f"imported_{place}") for place, one in enumerate(messages[:number])]


def has_decisions(messages: Sequence[RunMessage]) -> bool:
    """Whether the last message is the assistant's and holds answers to questions."""
    if not messages or messages[-1].role == "user":
        return False
    return any(part.get("state") == "approval-responded" for part in parts_of(messages[-1]))
