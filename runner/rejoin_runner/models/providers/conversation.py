"""A stored conversation in the form in which every provider takes it. Pure.

Owns what a model is shown of a message, and makes it valid for the provider whose `RequestRules` it is given,
whatever is stored: the log of a session may hold the answers of other models, of other loops, and half of an
answer that was interrupted. How a provider writes it on its wire is not known here.

The rules are those of `convertToModelMessages` of npm `ai` 7, and these:

* A tool call without a result, because its run was aborted or waits for a person, gets a sentence as its
  result. Providers reject a call without a result. Without the call, the model would not know of a side
  effect, and the signed reasoning before it would stand alone, which Anthropic and OpenAI reject too.
* Reasoning is sent back only to the model that wrote it. Another provider cannot read it; another model of
  the same provider rejects the signature or ignores the text.
* Reasoning at the end of an interrupted answer is left out.
* A tool's output of the form `{"type": "content", "value": [...]}` becomes texts and files, as the
  AI SDK's tools write them.
* A call whose arguments a person changed is shown as the model made it. Its result begins with what it
  ran with.
* Names and ids of calls are made fit for the provider, and arguments are an object.
* A text of whitespace alone is left out, and a message of which nothing is left becomes a note.
* A file that the model cannot take, or that cannot be read, becomes a note.
* Users and the model take turns. The user, or a tool, has the last word.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

import msgspec

from rejoin_protocol.events.edited_input import edit_of
from rejoin_protocol.events.fold import STEP_START, MessageDict, Part, is_tool, tool_name
from rejoin_runner.models.attachment_note import note_of
from rejoin_runner.models.providers.model_origin import ModelOrigin, ProviderData
from rejoin_runner.models.providers.request_rules import fit_call_id, fit_tool_name

DENIED = "Tool call execution denied."
WAITING = "The call has not run yet: it waits for a person's approval. It runs once it is approved."
NOT_RETURNED = "The call has not returned yet. Its output comes when it has."
EDITED = "[A person changed the arguments before the call ran. It ran with: {arguments}]"
FAILED = "The call failed."
NO_OUTPUT = "(no output)"
NO_TEXT = "[The user sent a message without text.]"
OPENING = "[The conversation begins with a message of the assistant.]"
BROKEN_OFF = "[The answer broke off here.]"
GO_ON = "Go on."
ARGUMENTS_DEPTH_MAX = 100
"""Levels of arguments that are sent as an object."""
NOT_AN_OBJECT = "unreadable_arguments"
"""The name under which arguments that are no object are sent, as text: providers take objects only."""


class FileContent(msgspec.Struct, frozen=True):
    """A file: its bytes, or the address of a remote one."""

    part: Part
    """The part that names it, for the note that may replace it."""
    media_type: str | None
    """None if it is known no more exactly than `image/*`."""
    data: bytes | None = None
    url: str = ""

    @property
    def kind(self) -> str:
        """The part of the media type that models differ in: `image`, `application` …"""
        return str(self.media_type or self.part.get("mediaType") or "").partition("/")[0]

    @property
    def digest(self) -> bytes:
        """The same for the same file."""
        return hashlib.sha256(self.url.encode() if self.data is None else self.data).digest()


type Content = str | FileContent


class Said(msgspec.Struct, frozen=True):
    """A text of an answer. `data`: what the model that reads it attached to it, as in the other parts."""

    text: str
    data: ProviderData | None = None


class Thought(msgspec.Struct, frozen=True):
    """Reasoning of the model that reads it."""

    text: str
    data: ProviderData


class MadeFile(msgspec.Struct, frozen=True):
    """A file that a model made, with its bytes."""

    file: FileContent
    data: ProviderData | None = None


class MadeCall(msgspec.Struct, frozen=True):
    """A call of a tool."""

    id: str
    name: str
    arguments: dict[str, Any]
    data: ProviderData | None = None


class Result(msgspec.Struct, frozen=True):
    """The result of a call."""

    call: str
    name: str
    content: tuple[Content, ...]
    outcome: Literal["success", "failed", "denied", "interrupted"] = "success"


class UserTurn(msgspec.Struct, frozen=True):
    """What the user says; never empty."""

    content: tuple[Content, ...]


class AnswerTurn(msgspec.Struct, frozen=True):
    """What the model says, never empty, and one result for each of its calls."""

    parts: tuple[Said | Thought | MadeFile | MadeCall, ...]
    results: tuple[Result, ...] = ()


type Turn = UserTurn | AnswerTurn


def build_conversation(
    messages: Iterable[MessageDict], origin: ModelOrigin, refused: Collection[bytes] = ()
) -> list[Turn]:
    """The conversation for the model `origin`: the messages come oldest first, the last is the answer so far.

    `refused` are the digests of files that this model has refused. System messages are not turns: see
    `system_texts`.
    """
    reader = _PartReader(origin, refused)
    return list(
        _in_order(_join_turns(turn for message in messages for turn in _turns(message, reader)), origin)
    )


def system_texts(messages: Iterable[MessageDict]) -> list[str]:
    """The texts of the system messages, which belong to the instructions: many models take no others."""
    texts = (
        "".join(part["text"] for part in message["parts"] if part["type"] == "text")
        for message in messages
        if message.get("role") == "system"
    )
    return [text for text in texts if text.strip()]


def files_in(turns: Iterable[Turn]) -> Iterator[FileContent]:
    """All files of a conversation."""
    for turn in turns:
        if isinstance(turn, UserTurn):
            yield from (item for item in turn.content if isinstance(item, FileContent))
            continue
        yield from (part.file for part in turn.parts if isinstance(part, MadeFile))
        contents = (item for result in turn.results for item in result.content)
        yield from (item for item in contents if isinstance(item, FileContent))


def call_names(turns: Iterable[Turn]) -> list[str]:
    """The names of the tools that are called in a conversation, each once."""
    answers = (turn for turn in turns if isinstance(turn, AnswerTurn))
    return list(dict.fromkeys(result.name for answer in answers for result in answer.results))


# ------------------------------------------------------------------------------------------- the order


def _join_turns(turns: Iterable[Turn]) -> Iterator[Turn]:
    """The turns, with neighbours of one speaker joined."""
    waiting: Turn | None = None
    for turn in turns:
        match waiting, turn:
            case UserTurn(content=before), UserTurn(content=content):
                waiting = UserTurn(before + content)
            case AnswerTurn(parts=before, results=()), AnswerTurn(parts=parts, results=results):
                waiting = AnswerTurn(before + parts, results)
            case None, _:
                waiting = turn
            case earlier, _:
                yield _not_empty(earlier)
                waiting = turn
    if waiting is not None:
        yield _not_empty(waiting)


def _not_empty(turn: Turn) -> Turn:
    return UserTurn((NO_TEXT,)) if isinstance(turn, UserTurn) and not turn.content else turn


def _in_order(turns: Iterable[Turn], origin: ModelOrigin) -> Iterator[Turn]:
    """The turns, with notes where the provider wants somebody else to speak."""
    before: Turn | None = None
    for turn in turns:
        if before is None and isinstance(turn, AnswerTurn) and origin.rules.user_first:
            yield UserTurn((OPENING,))
        if (
            origin.rules.answer_after_results
            and isinstance(before, AnswerTurn)
            and isinstance(turn, UserTurn)
            and before.results
        ):
            yield AnswerTurn((Said(BROKEN_OFF),))
        yield turn
        before = turn
    if before is None or (isinstance(before, AnswerTurn) and not before.results):
        yield UserTurn((GO_ON,))


def _turns(message: MessageDict, reader: "_PartReader") -> Iterator[Turn]:
    match message.get("role"):
        case "user":
            yield UserTurn(reader.read_content(message["parts"]))
        case "assistant":
            for block in _blocks(message["parts"]):
                if isinstance(block, list):
                    yield from _answer(block, reader)
                elif content := reader.read_content(block["parts"]):
                    yield UserTurn(content)


def _blocks(parts: Sequence[Part]) -> Iterator[list[Part] | Part]:
    """The steps of an assistant message, and between them the user's steering messages."""
    block: list[Part] = []
    for part in parts:
        if part["type"] not in (STEP_START, "steering-message"):
            block.append(part)
            continue
        yield block
        block = []
        if part["type"] == "steering-message":
            yield part
    yield block


def _answer(block: Sequence[Part], reader: "_PartReader") -> Iterator[AnswerTurn]:
    parts: list[Said | Thought | MadeFile | MadeCall] = []
    results: list[Result] = []
    for part in block:
        shown = reader.read_answer_part(part)
        if shown is None:
            continue
        parts.append(shown)
        if isinstance(shown, MadeCall):
            results.append(reader.read_result(part, shown))
    while parts and isinstance(parts[-1], Thought):
        parts.pop()
    if all(part.data is None for part in parts):
        # Other models may have spoken behind their calls. With provider data the order is the provider's own.
        parts.sort(key=lambda part: isinstance(part, MadeCall))
    if parts:
        yield AnswerTurn(tuple(parts), tuple(results))


# ------------------------------------------------------------------------------------------- the parts


class _PartReader:
    """Reads the parts of all messages for one request: the ids of calls are unique in it."""

    def __init__(self, origin: ModelOrigin, refused: Collection[bytes]) -> None:
        self._origin = origin
        self._refused = refused
        self._call_ids: set[str] = set()

    def read_content(self, parts: Iterable[Part]) -> tuple[Content, ...]:
        """The texts and files of a user's message."""
        content: list[Content] = []
        for part in parts:
            if part["type"] == "text" and part["text"].strip():
                content.append(part["text"])
            elif part["type"] == "file":
                content.append(self._read_file(part))
        return tuple(content)

    def read_answer_part(self, part: Part) -> Said | Thought | MadeFile | MadeCall | None:
        """A part of an answer; None if the model is not shown it again."""
        data = self._origin.find_own_data(part.get("providerMetadata"))
        match part:
            case {"type": "text", "text": str(text)} if text.strip() or (
                text and data is not None and data.id is not None  # reasoning before it must not stand alone
            ):
                return Said(text, data)
            case {"type": "reasoning", "text": str(text)} if data is not None:
                return Thought(text, data)
            case {"type": "file", "url": str(url)} if url.startswith("data:"):
                file = self._read_file(part)
                return MadeFile(file, data) if isinstance(file, FileContent) else None
            case _ if _is_call(part):
                return self._read_call(part)
            case _:
                return None

    def read_result(self, part: Part, call: MadeCall) -> Result:
        """The result of a call, a sentence if it has none."""
        reason = _visible((part.get("approval") or {}).get("reason")) or DENIED
        result = partial(Result, call.id, call.name)
        note = () if edit_of(part) is None else (EDITED.format(arguments=_to_json(part.get("input"))),)
        match part.get("state"):
            case "output-available":
                return result((*note, *(self._read_output(part.get("output")) or (NO_OUTPUT,))))
            case "output-error":
                return result((*note, _visible(part.get("errorText")) or FAILED), "failed")
            case "output-denied":
                return result((reason,), "denied")
            case "approval-responded" if not (part.get("approval") or {}).get("approved"):
                return result((reason,), "denied")
            case "approval-requested":
                return result((WAITING,), "interrupted")
            case _:
                return result((NOT_RETURNED,), "interrupted")

    def _read_call(self, part: Part) -> MadeCall:
        # The metadata of a call whose arguments did not fit is stored with its result.
        data = self._origin.find_own_data(part.get("callProviderMetadata"))
        data = data or self._origin.find_own_data(part.get("resultProviderMetadata"))
        rules = self._origin.rules
        id = fit_call_id(part["toolCallId"], rules, self._call_ids)
        edit = edit_of(part)
        arguments = part.get("input") if edit is None else edit.shown_input
        return MadeCall(id, fit_tool_name(tool_name(part), rules), _arguments(arguments), data)

    def _read_output(self, value: Any) -> tuple[Content, ...]:
        """A tool's output: its texts and files if it consists of these, else its JSON text."""
        if (
            isinstance(value, dict)
            and value.get("type") == "content"
            and isinstance(value.get("value"), list)
        ):
            items = [_content_item(item) for item in value["value"]]
            if items and None not in items:
                shown = (item if isinstance(item, str) else self._read_made(item) for item in items if item)
                return tuple(item for item in shown if not isinstance(item, str) or item.strip())
        text = _visible(value if isinstance(value, str) else _to_json(value))
        return (text,) if text else ()

    def _read_made(self, part: Part) -> Content:
        """A tool's file, or a sentence about it."""
        file = self._read_file(part)
        if isinstance(file, str) or self._origin.rules.files_in_results:
            return file
        return note_of(part, "is left out: this model takes no files from tools", len(file.data or b""))

    def _read_file(self, part: Part) -> Content:
        """An attachment, or a sentence about one that cannot be read or that this model cannot take."""
        url, media_type = part["url"], part.get("mediaType") or ""
        exact = media_type if "/" in media_type and not media_type.endswith("*") else None
        if url.startswith("data:"):
            try:
                data, declared = _decode(url)
            except binascii.Error:
                return note_of(part, "cannot be read")
            if not data:
                return note_of(part, "is empty")
            file = FileContent(part, exact or declared or "text/plain", data)
        elif url.startswith(("http://", "https://")):
            file = FileContent(part, exact, url=url)
        else:
            return note_of(part, "cannot be read")
        if file.media_type in self._origin.refused_files or (self._refused and file.digest in self._refused):
            size = None if file.data is None else len(file.data)
            return note_of(part, "is left out: this model cannot read it", size)
        return file


def _is_call(part: Part) -> bool:
    """Whether it is a complete call of a Rejoin tool, not one that the provider executed itself."""
    return is_tool(part) and part.get("state") != "input-streaming" and not part.get("providerExecuted")


def _arguments(value: Any) -> dict[str, Any]:
    if isinstance(value, dict) and not _is_deep(value):
        return value
    return {NOT_AN_OBJECT: value if isinstance(value, str) else _to_json(value)}


def _content_item(item: Any) -> str | Part | None:
    """A content item of the AI SDK: its text, or a file part; None if it has another form."""
    match item:
        case {"type": "text", "text": str(text)}:
            return text
        case {
            "type": "media" | "image-data" | "file-data",
            "data": str(data),
            "mediaType": str(media_type),
        }:
            return {**item, "url": f"data:{media_type};base64,{data}"}
        case {"type": "image-url" | "file-url" as kind, "url": str()}:
            return {"mediaType": "image/*" if kind == "image-url" else "", **item}
        case _:
            return None


def _is_deep(value: Any) -> bool:
    """Whether a value is nested deeper than `ARGUMENTS_DEPTH_MAX`: libraries cannot write it, nor servers
    read it.
    """
    level = [value]
    for _ in range(ARGUMENTS_DEPTH_MAX):
        children = [node.values() if isinstance(node, dict) else node for node in level]
        level = [child for group in children for child in group if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _visible(text: Any) -> str:
    return text if isinstance(text, str) and text.strip() else ""


def _to_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _decode(url: str) -> tuple[bytes, str]:
    """The bytes of a data URL, and the media type that it declares. Raises `binascii.Error`."""
    head, _, body = url.removeprefix("data:").partition(",")
    data = unquote_to_bytes(body)
    if head.endswith(";base64"):
        data = base64.b64decode(data)
    return data, head.partition(";")[0]
