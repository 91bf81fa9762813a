"""Messages with `content`, `parts` or both, as the run, graph and agent-chat APIs take them. Pure.

`content` is a string, a list of parts, or an object with `text`, `parts` or both. A string becomes a text
part before `parts`, unless `parts` holds a text part with the same text: some clients send their text in both
fields. An object is read like a message with its `text` as content.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from rejoin_gateway.core.answered_calls import RESPONDED, AnsweredCall, answers_before, parse_answers
from rejoin_gateway.core.message_input import ClientMessage, relocate_errors
from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import RepeatedParts, RepeatedText


class MessageContent(msgspec.Struct, frozen=True):
    """`content` as an object."""

    text: RepeatedText | None = None
    parts: RepeatedParts = []


class RunMessage(msgspec.Struct, frozen=True):
    """One item of `messages`."""

    role: RepeatedText
    content: RepeatedText | RepeatedParts | MessageContent | None = None
    parts: RepeatedParts | None = None
    id: RepeatedText | None = None


def parts_of(message: RunMessage) -> list[dict[str, Any]]:
    """All content of the message, as parts."""
    return [part for _, part in _placed_parts(message)]


def part_pointers(message: RunMessage, pointer: str) -> list[str]:
    """The JSON pointers of `parts_of(message)`. `pointer` is the message's."""
    return [f"{pointer}/{place}" for place, _ in _placed_parts(message)]


def _placed_parts(message: RunMessage) -> list[tuple[str, dict[str, Any]]]:
    """The parts, each with its place in the message."""
    placed = [(f"parts/{number}", part) for number, part in enumerate(message.parts or ())]
    match message.content:
        case list(parts):
            return [*((f"content/{number}", part) for number, part in enumerate(parts)), *placed]
        case MessageContent(text, parts):
            inner = [(f"content/parts/{number}", part) for number, part in enumerate(parts)]
            return _with_text("content/text", text, [*inner, *placed])
        case text:
            return _with_text("content", text, placed)


def _with_text(
    place: str, text: str | None, placed: list[tuple[str, dict[str, Any]]]
) -> list[tuple[str, dict[str, Any]]]:
    """The parts, with a part for the text before them unless one of them has the same text."""
    is_repeated = any(part.get("type") == "text" and part.get("text") == text for _, part in placed)
    return placed if not text or is_repeated else [(place, {"type": "text", "text": text}), *placed]


def last_user_message(messages: Sequence[RunMessage], new_id: str) -> tuple[ClientMessage, int]:
    """The last user message and its index: the one to answer. Raises `Invalid` if there is none.

    `new_id`: the id of a message that has none.
    """
    for number in range(len(messages) - 1, -1, -1):
        if messages[number].role == "user":
            return to_client_message(messages[number], new_id), number
    raise Invalid("messages holds at least one message of the user's", "/messages")


def to_client_message(message: RunMessage, new_id: str) -> ClientMessage:
    """The message in the AI SDK's form. A message without an id gets `new_id`."""
    role = message.role if message.role in ("system", "user", "assistant") else "assistant"
    return ClientMessage(message.id or new_id, role, parts_of(message))  # type: ignore[arg-type]


def earlier_messages(messages: Sequence[RunMessage], number: int) -> list[ClientMessage]:
    """The messages before index `number`, which a new session imports."""
    return [
        to_client_message(message, f"imported_{place}") for place, message in enumerate(messages[:number])
    ]


def last_answers(messages: Sequence[RunMessage]) -> list[AnsweredCall]:
    """The answers in the last message, whoever's it is: some clients send them as the user's."""
    if not messages:
        return []
    last, pointer = messages[-1], f"/messages/{len(messages) - 1}"
    with relocate_errors(pointer, part_pointers(last, pointer)):
        return parse_answers(to_client_message(last, "answered"), pointer)


def earlier_answers(messages: Sequence[RunMessage]) -> list[AnsweredCall]:
    """The answers directly before the last message, if that is the user's."""
    if not messages or messages[-1].role != "user":
        return []
    return answers_before([to_client_message(message, "earlier") for message in messages], "/messages")


def has_message(message: RunMessage) -> bool:
    """Whether a message is the user's and holds more than answers to approvals."""
    if message.role != "user":
        return False
    return any(
        part.get("state") != RESPONDED and part.get("type") != "step-start" for part in parts_of(message)
    )
