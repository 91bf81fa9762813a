"""What clients send as messages and decisions, checked and made ready to be stored.

Only a user's own words and files are taken from a client, and its answers to questions that were asked.
Nothing is dropped silently: what cannot be taken is named by its JSON pointer. What a file is worth is not
judged here.
"""

import hashlib
import re
import secrets
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import msgspec
from msgspec import UNSET
from rejoin_adapters.records import Decision, Owner, WhenBusy
from rejoin_protocol import ids
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import UIMessage
from rejoin_protocol.ids import MESSAGE_ID_CHARS_MAX, ApprovalId

MESSAGES_MAX = 10_000
IMPORTS_MAX = 500
TEXT_CHARS_MAX = 16 * 1024 * 1024
"""Of one message: a body may be larger, for the sake of its files."""
FILENAME_CHARS_MAX = 255

PART_FORMS = (
    "a user's part is {type: text, text}, {type: file, url, mediaType}, {type: image, image} or "
    "{type: image_url, image_url: {url}}"
)


class ClientMessage(msgspec.Struct, frozen=True):
    """A message as a client holds it."""

    id: str
    role: Literal["system", "user", "assistant"]
    parts: list[dict[str, Any]]
    metadata: Any = UNSET


class ImportedTurn(msgspec.Struct, frozen=True):
    """A turn from before a session, and the JSON pointers of its parts."""

    message: UIMessage
    places: Sequence[str]


class MessageOptions(msgspec.Struct, frozen=True, rename="camel"):
    """What may stand beside a message."""

    when_busy: WhenBusy = WhenBusy.ENQUEUE
    interrupt_if_streaming: bool = False

    @property
    def busy(self) -> WhenBusy:
        """What is to happen if the session is busy."""
        return WhenBusy.INTERRUPT if self.interrupt_if_streaming else self.when_busy


class SessionBody(MessageOptions, frozen=True, rename="camel", kw_only=True):
    """A body that may name its session, in any of three ways: the first that is said counts."""

    conversation_id: str | None = None
    thread_id: str | None = None
    id: str | None = None

    @property
    def named(self) -> str | None:
        """The session, if it is named. Raises `Invalid`."""
        for field, value in (
            ("conversationId", self.conversation_id),
            ("threadId", self.thread_id),
            ("id", self.id),
        ):
            if value is not None:
                try:
                    return ids.session_id(value)
                except Invalid as fault:
                    raise Invalid(fault.detail, f"/{field}") from fault
        return None


def new_session_id(key: str | None = None, owner: Owner | None = None) -> str:
    """A UUID for a session that the caller did not name. For the same key of the same owner it is the same:
    a request that is repeated because its answer was lost belongs into the session that it has made.
    """
    if key is None or owner is None:
        return str(uuid.uuid4())
    digest = hashlib.sha256(msgspec.json.encode((owner.tenant, owner.user, key))).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def new_message_id(key: str | None) -> str:
    """An id for a message that has none: the same for the same key, or it would be another message."""
    return f"msg_{hashlib.sha256(key.encode()).hexdigest()[:24] if key else secrets.token_hex(12)}"


def build_user_message(message: ClientMessage, pointer: str) -> UIMessage:
    """A user's message as it is stored, but for its files: each is a part `{type: file, url, mediaType?,
    filename?}` whose URL is what the client sent. Raises `Invalid`.
    """
    if not 0 < len(message.id) <= MESSAGE_ID_CHARS_MAX:
        raise Invalid(f"a message id has 1 to {MESSAGE_ID_CHARS_MAX} characters", f"{pointer}/id")
    if not message.parts:
        raise Invalid("a user's message has at least one part", f"{pointer}/parts")
    parts = [_part(part, f"{pointer}/parts/{number}") for number, part in enumerate(message.parts)]
    _check_text(parts, f"{pointer}/parts")
    stored: UIMessage = {"id": message.id, "role": "user"}
    if message.metadata is not UNSET:
        stored["metadata"] = message.metadata
    return stored | {"parts": parts}


@contextmanager
def relocate_errors(pointer: str, places: Sequence[str]) -> Iterator[None]:
    """Have what is wrong with a part be said of the place where the client wrote it.

    `pointer` is that of the message, `places` are those of its parts.
    """
    try:
        yield
    except Invalid as fault:
        found = re.match(r"/parts/(\d+)", fault.pointer.removeprefix(pointer))
        if found is None or int(found[1]) >= len(places):
            raise
        rest = fault.pointer.removeprefix(pointer + found[0])
        raise Invalid(fault.detail, places[int(found[1])] + rest) from fault


def _part(part: dict[str, Any], pointer: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "file", "url": str(url), "mediaType": str()}:
            return _file(part, url, pointer)
        case {"type": "image", "image": str(url)} | {"type": "image_url", "image_url": {"url": str(url)}}:
            return _file(part, url, pointer)
        case _:
            raise Invalid(PART_FORMS, pointer)


def _file(part: dict[str, Any], url: str, pointer: str) -> dict[str, Any]:
    file = {"type": "file", "url": url}
    for name, chars_max in (("mediaType", 100), ("filename", FILENAME_CHARS_MAX)):
        value = part.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > chars_max or not value.isprintable():
            raise Invalid(f"{name} has at most {chars_max} characters, all of them printable", pointer)
        file[name] = value
    return file


def _check_text(parts: list[dict[str, Any]], pointer: str) -> None:
    chars = 0
    for number, part in enumerate(parts):
        chars += len(part.get("text", ""))
        if chars > TEXT_CHARS_MAX:
            raise Invalid(f"a message has at most {TEXT_CHARS_MAX} characters", f"{pointer}/{number}")


def build_imported_turns(
    messages: Sequence[ClientMessage], places: Callable[[int], Sequence[str]]
) -> list[ImportedTurn]:
    """Earlier turns for a session that is new: their text, and the user's files, for nobody has seen their
    tools run. `places` are the JSON pointers of a message's parts, by its number. Raises `Invalid` for a file
    as `user` does.
    """
    turns = [
        _imported(message, places(number))
        for number, message in enumerate(messages)
        if number >= len(messages) - IMPORTS_MAX and message.role != "system"
    ]
    return [turn for turn in turns if turn.message["parts"]]


def _imported(message: ClientMessage, written: Sequence[str]) -> ImportedTurn:
    parts, places = [], []
    for part, place in zip(message.parts, written, strict=True):
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append({"type": "text", "text": text})
            case {"type": "file" | "image" | "image_url"} if message.role == "user":
                parts.append(_part(part, place))
            case _:
                continue
        places.append(place)
    turn: UIMessage = {"id": message.id[:MESSAGE_ID_CHARS_MAX], "role": message.role, "parts": parts}
    return ImportedTurn(turn, places)


def parse_decisions(message: ClientMessage, pointer: str) -> list[Decision]:
    """The answers in an assistant message: its parts in `approval-responded`. Raises `Invalid`."""
    if message.role != "assistant":
        return []
    return [
        parse_decision(part.get("approval"), f"{pointer}/parts/{number}/approval")
        for number, part in enumerate(message.parts)
        if part.get("state") == "approval-responded"
    ]


def parse_decision(approval: Any, pointer: str) -> Decision:
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
