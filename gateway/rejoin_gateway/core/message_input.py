"""Checks the messages and decisions that clients send and brings them into the form that is stored.

A client may add a user's text and files, and decide approvals; it cannot add assistant messages to an
existing
session. Whatever cannot be taken is an error with a JSON pointer. Files are checked in `attachments`, not
here.
"""

import hashlib
import re
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from rejoin_adapters.store_types import Owner, WhenBusy
from rejoin_protocol import ids, limits
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.events.steering import steering_fault
from rejoin_protocol.limits import (
    DATA_BYTES_MAX,
    METADATA_BYTES_MAX,
    TEXT_BYTES_MAX,
    CheckedId,
    Part,
    RepeatedParts,
    RepeatedText,
)

PART_FORMS = (
    "a user's part is {type: text, text}, {type: file, url, mediaType}, {type: image, image}, "
    "{type: image, text: url}, {type: image_url, image_url: {url}} or {type: data-…, data}"
)
_DATA_TYPE = re.compile(r"data-[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class ClientMessage(msgspec.Struct, frozen=True):
    """A message in the AI SDK's form, as a client sends it."""

    id: RepeatedText
    role: Literal["system", "user", "assistant"]
    parts: RepeatedParts
    metadata: Any = UNSET


class ImportedTurn(msgspec.Struct, frozen=True):
    """A turn from before the session began, and the JSON pointer of each of its parts."""

    message: MessageDict
    places: Sequence[str]


class SeenAnswer(msgspec.Struct, frozen=True, rename="camel"):
    """What the user had seen of an answer: `lastPart` is its last visible part, with as much text as was
    visible. What is behind it is cut from the history.
    """

    last_part: Part | None = None


class RunWebhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A receiver that is told of the run alone: of its end and its stops."""

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=limits.URL_CHARS_MAX)]


class MessageOptions(msgspec.Struct, frozen=True, rename="camel"):
    """Fields beside the message: what to do if the session is busy, and who else is told of the run."""

    when_busy: WhenBusy | UnsetType = UNSET
    interrupt_if_streaming: bool | SeenAnswer = False
    webhook: RunWebhook | None = None

    @property
    def busy_policy(self) -> WhenBusy:
        """`interruptIfStreaming` is the older name of `whenBusy: "interrupt"` and wins over `whenBusy`."""
        if self.interrupt_if_streaming is not False:
            return WhenBusy.INTERRUPT
        return WhenBusy.ENQUEUE if self.when_busy is UNSET else self.when_busy

    @property
    def names_busy_policy(self) -> bool:
        """Whether the client says what to do."""
        return self.when_busy is not UNSET or self.interrupt_if_streaming is not False

    @property
    def seen(self) -> dict[str, Any] | None:
        """The last part that the user had seen of the answer to interrupt."""
        asked = self.interrupt_if_streaming
        return asked.last_part if isinstance(asked, SeenAnswer) else None


class SessionBody(MessageOptions, frozen=True, rename="camel", kw_only=True):
    """A body that may name its session, by one of three fields; the first one that is set counts."""

    conversation_id: CheckedId | None = None
    thread_id: CheckedId | None = None
    id: CheckedId | None = None

    @property
    def session_id(self) -> str | None:
        """The session's id, or None. Raises `Invalid` with the field's pointer."""
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
    """A UUID for a session that the client did not name.

    Derived from the idempotency key, if there is one: a request that is repeated because its response was
    lost has to reach the session that it created.
    """
    if key is None or owner is None:
        return str(uuid.uuid4())
    digest = hashlib.sha256(msgspec.json.encode((owner.tenant, owner.user, key))).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def new_message_id(key: str | None) -> str:
    """An id for a message that has none. Derived from the idempotency key, so that a repeat is the same
    message.
    """
    return f"msg_{hashlib.sha256(key.encode()).hexdigest()[:24] if key else secrets.token_hex(12)}"


def build_user_message(message: ClientMessage, pointer: str) -> MessageDict:
    """A user's message in its stored form; its files are parts `{type: file, url, mediaType?, filename?}`
    with the URL that the client sent. Raises `Invalid`.
    """
    try:
        ids.message_id(message.id)
    except Invalid as fault:
        raise Invalid(fault.detail, f"{pointer}/id") from fault
    if not message.parts:
        raise Invalid("a user's message has at least one part", f"{pointer}/parts")
    parts = [_build_part(part, f"{pointer}/parts/{number}") for number, part in enumerate(message.parts)]
    _check_size(parts, f"{pointer}/parts")
    stored: MessageDict = {"id": message.id, "role": "user"}
    if message.metadata is not UNSET:
        _check_json("the metadata of a message", message.metadata, METADATA_BYTES_MAX, f"{pointer}/metadata")
        stored["metadata"] = message.metadata
    return stored | {"parts": parts}


@contextmanager
def relocate_errors(pointer: str, places: Sequence[str]) -> Iterator[None]:
    """Point errors about a message's parts to where the client wrote these parts.

    `pointer` is the message's, `places` are the parts' JSON pointers. In some APIs they are not below each
    other.
    """
    try:
        yield
    except Invalid as fault:
        match = re.match(r"/parts/(\d+)", fault.pointer.removeprefix(pointer))
        if match is None or int(match[1]) >= len(places):
            raise
        rest = fault.pointer.removeprefix(pointer + match[0])
        raise Invalid(fault.detail, places[int(match[1])] + rest) from fault


def _build_part(part: dict[str, Any], pointer: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "file", "url": str(url), "mediaType": str()}:
            return _build_file(part, url, pointer)
        case (
            {"type": "image", "image": str(url)}
            | {"type": "image", "text": str(url)}
            | {"type": "image_url", "image_url": {"url": str(url)}}
        ):
            return _build_file(part, url, pointer)
        case {"type": str(type), "data": data} if _DATA_TYPE.fullmatch(type):
            return _build_data(part, type, data, pointer)
        case _:
            raise Invalid(PART_FORMS, pointer)


def _build_data(part: dict[str, Any], type: str, data: Any, pointer: str) -> dict[str, Any]:
    id = part.get("id")
    if not isinstance(id, str):
        return {"type": type, "data": data}
    try:
        return {"type": type, "id": ids.message_id(id, "the id of a data part"), "data": data}
    except Invalid as fault:
        raise Invalid(fault.detail, f"{pointer}/id") from fault


def _build_file(part: dict[str, Any], url: str, pointer: str) -> dict[str, Any]:
    file = {"type": "file", "url": url}
    for name, chars_max in (("mediaType", 100), ("filename", limits.FILENAME_CHARS_MAX)):
        value = part.get(name)
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > chars_max or ids.has_controls(value):
            raise Invalid(f"{name} has at most {chars_max} characters and no control characters", pointer)
        file[name] = value
    return file


def _check_size(parts: list[dict[str, Any]], pointer: str) -> None:
    if len(parts) > limits.PARTS_MAX:
        raise Invalid(f"a message has at most {limits.PARTS_MAX} parts, not {len(parts)}", pointer)
    text_bytes = data_bytes = 0
    for number, part in enumerate(parts):
        text_bytes += _utf8_bytes(part.get("text", ""))
        if text_bytes > TEXT_BYTES_MAX:
            raise Invalid(
                f"the text of a message has at most {TEXT_BYTES_MAX} bytes in UTF-8, this one has at least "
                f"{text_bytes}: send longer texts as files",
                f"{pointer}/{number}",
            )
        data_bytes += len(msgspec.json.encode(part)) if "data" in part else 0
        if data_bytes > DATA_BYTES_MAX:
            raise Invalid(
                f"the data of a message has at most {DATA_BYTES_MAX} bytes as JSON, this one has at least "
                f"{data_bytes}",
                f"{pointer}/{number}",
            )


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _check_json(what: str, value: Any, bytes_max: int, pointer: str) -> None:
    size = len(msgspec.json.encode(value))
    if size > bytes_max:
        raise Invalid(f"{what} has at most {bytes_max} bytes as JSON, not {size}", pointer)


def check_steering(message: MessageDict, pointer: str) -> None:
    """Raises `Invalid` for a message that cannot steer a run, with its place in the message at `pointer`."""
    fault = steering_fault(message)
    if fault is not None:
        detail, place = fault
        raise Invalid(detail, pointer + place)


def check_seen(seen: Mapping[str, Any] | None) -> None:
    """Raises `Invalid` for a last seen part that is larger than any part of an answer."""
    if seen is not None:
        _check_json("lastPart", seen, limits.EVENT_BYTES_MAX, "/lastPart")


def build_imported_turns(
    messages: Sequence[ClientMessage], places: Callable[[int], Sequence[str]]
) -> list[ImportedTurn]:
    """Earlier turns for a new session: their text and the user's files.

    Tool calls are left out: the client reports them, and nothing proves that they were executed. `places`
    returns the JSON pointers of the parts of message `number`. Nothing in them is refused: a client that
    sends all of its messages again would be refused for ever. A text stands for a part that cannot be taken.
    """
    turns = [
        _build_imported_turn(message, places(number))
        for number, message in enumerate(messages)
        if message.role != "system"
    ]
    return [turn for turn in turns if turn.message["parts"]]


def imports_fault(turns: Sequence[ImportedTurn]) -> str | None:
    """Why a new session does not take over these earlier messages. None: it does."""
    if len(turns) > limits.IMPORTS_MAX:
        return f"a new session takes over at most {limits.IMPORTS_MAX} earlier messages, not {len(turns)}"
    size_bytes = sum(_stored_bytes(part) for turn in turns for part in turn.message["parts"])
    if size_bytes > limits.IMPORT_BYTES_MAX:
        most = limits.IMPORT_BYTES_MAX
        return f"a new session takes over at most {most} bytes of earlier messages, not {size_bytes}"
    return None


def _stored_bytes(part: dict[str, Any]) -> int:
    """What an imported part adds to its session: not the bytes of files, which are stored apart."""
    if part["type"] == "text":
        return _utf8_bytes(part["text"])
    return len(msgspec.json.encode(part)) if "data" in part else 0


def with_own_ids(turns: Sequence[ImportedTurn], new_id: str) -> list[ImportedTurn]:
    """The turns, each with an id of its own. The first turn with an id keeps it, unless it is `new_id`: the
    message behind them has that.
    """
    taken, renamed = {new_id}, []
    for number, turn in enumerate(turns):
        given = turn.message["id"]
        id = _stand_in_id(f"{number} {given}") if given in taken else given
        taken.add(id)
        renamed.append(msgspec.structs.replace(turn, message=turn.message | {"id": id}))
    return renamed


def _build_imported_turn(message: ClientMessage, pointers: Sequence[str]) -> ImportedTurn:
    parts, places = [], []
    for part, place in zip(message.parts, pointers, strict=True):
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append({"type": "text", "text": text})
            case {"type": str(type)} if message.role == "user" and _is_importable(type):
                parts.append(_build_or_note(part, place))
            case _:
                continue
        places.append(place)
    id = message.id if ids.is_message_id(message.id) else _stand_in_id(message.id)
    turn: MessageDict = {"id": id, "role": message.role, "parts": parts}
    return ImportedTurn(turn, places)


def _is_importable(type: str) -> bool:
    return type in ("file", "image", "image_url") or _DATA_TYPE.fullmatch(type) is not None


def _build_or_note(part: dict[str, Any], pointer: str) -> dict[str, Any]:
    try:
        return _build_part(part, pointer)
    except Invalid as fault:
        return refused_note(part, fault)


def refused_note(part: dict[str, Any], fault: Invalid) -> dict[str, Any]:
    """The text that stands for a part of an earlier turn that cannot be taken."""
    name = part.get("filename")
    named = f" {name[: limits.FILENAME_CHARS_MAX]!r}" if isinstance(name, str) else ""
    return {"type": "text", "text": f"[A part of this message{named} was not taken: {fault.detail}]"}


def _stand_in_id(id: str) -> str:
    """The id of an imported message whose own id is none: always the same."""
    return f"msg_{hashlib.sha256(id.encode()).hexdigest()[:24]}"


def parse_reason(reason: Any, pointer: str) -> str | None:
    """The reason of a decision; None for what is no text. Raises `Invalid` if it is too long."""
    if not isinstance(reason, str):
        return None
    if len(reason) > limits.REASON_CHARS_MAX:
        raise Invalid(
            f"the reason of a decision has at most {limits.REASON_CHARS_MAX} characters, not {len(reason)}",
            f"{pointer}/reason",
        )
    return reason


def check_title(title: str | UnsetType | None) -> None:
    """Raises `Invalid` for a title that is too long or holds NUL."""
    if isinstance(title, str) and (len(title) > limits.TITLE_CHARS_MAX or "\0" in title):
        raise Invalid(f"a title has at most {limits.TITLE_CHARS_MAX} characters, none of them NUL", "/title")


def check_metadata(metadata: Any) -> None:
    """Raises `Invalid` for metadata whose JSON is too long."""
    if metadata is not UNSET:
        _check_json("metadata", metadata, METADATA_BYTES_MAX, "/metadata")
