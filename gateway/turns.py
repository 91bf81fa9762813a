"""What clients send as messages and decisions, checked and made ready to be stored. Pure.

Only a user's own words are taken from a client, and its answers to questions that were asked. Nothing is
dropped silently: what cannot be taken is named by its JSON pointer.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from protocol.adapters.ports import Decision, WhenBusy
from protocol.errors import Invalid
from protocol.fold import UIMessage
from protocol.ids import MESSAGE_ID_CHARS_MAX, ApprovalId

MESSAGES_MAX = 10_000
IMPORTS_MAX = 500


class Message(msgspec.Struct, frozen=True):
    """A message as a client holds it."""

    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: Any = UNSET


class Options(msgspec.Struct, frozen=True, rename="camel"):
    """What may stand beside a message."""

    when_busy: WhenBusy = WhenBusy.ENQUEUE
    interrupt_if_streaming: bool = False

    @property
    def busy(self) -> WhenBusy:
        """What is to happen if the session is busy."""
        return WhenBusy.INTERRUPT if self.interrupt_if_streaming else self.when_busy


def user(message: Message, pointer: str) -> UIMessage:
    """A user's message as it is stored. Raises `Invalid`."""
    if not 0 < len(message.id) <= MESSAGE_ID_CHARS_MAX:
        raise Invalid(f"a message id has 1 to {MESSAGE_ID_CHARS_MAX} characters", f"{pointer}/id")
    if not message.parts:
        raise Invalid("a user's message has at least one part", f"{pointer}/parts")
    parts = [_part(part, f"{pointer}/parts/{number}") for number, part in enumerate(message.parts)]
    stored: UIMessage = {"id": message.id, "role": "user"}
    if message.metadata is not UNSET:
        stored["metadata"] = message.metadata
    return stored | {"parts": parts}


def _part(part: dict[str, Any], pointer: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case _:
            raise Invalid("a user's part is {type: text, text}", pointer)


def imported(messages: Sequence[Message]) -> list[UIMessage]:
    """Earlier turns for a session that is new: their text alone, for nobody has seen their tools run."""
    turns = [_imported(message) for message in messages[-IMPORTS_MAX:] if message.role != "system"]
    return [turn for turn in turns if turn["parts"]]


def _imported(message: Message) -> UIMessage:
    parts = [
        {"type": "text", "text": part["text"]}
        for part in message.parts
        if part.get("type") == "text" and isinstance(part.get("text"), str)
    ]
    return {"id": message.id[:MESSAGE_ID_CHARS_MAX], "role": message.role, "parts": parts}


def decisions(message: Message, pointer: str) -> list[Decision]:
    """The answers in an assistant message: its parts in `approval-responded`. Raises `Invalid`."""
    if message.role != "assistant":
        return []
    return [
        decision(part.get("approval"), f"{pointer}/parts/{number}/approval")
        for number, part in enumerate(message.parts)
        if part.get("state") == "approval-responded"
    ]


def decision(approval: Any, pointer: str) -> Decision:
    """One answer, `{id | approvalId, approved, reason?}`. Raises `Invalid`."""
    match approval:
        case {"id": str(id), "approved": bool(approved)} | {
            "approvalId": str(id),
            "approved": bool(approved),
        }:
            reason = approval.get("reason")
            return Decision(ApprovalId(id), approved, reason if isinstance(reason, str) else None)
        case _:
            raise Invalid("an answered approval needs an id and `approved`", pointer)
