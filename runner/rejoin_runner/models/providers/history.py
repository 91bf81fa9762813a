"""Translates a stored conversation to pydantic-ai's messages. Pure.

Owns which data of a provider (ids, signatures) is sent back to it; the library owns the wire format. The
rules are those of `convertToModelMessages` of npm `ai` 7, and four more:

* A tool call without a result, because its run was aborted or waits for a person, gets a sentence as its
  result. Providers reject a call without a result. Without the call, the model would not know of a side
  effect, and the signed reasoning before it would stand alone, which Anthropic and OpenAI reject too.
* Reasoning is sent back only to the model that wrote it. Another provider cannot read it; another model of
  the same provider rejects the signature or ignores the text.
* Reasoning at the end of an interrupted answer is left out.
* A tool's output of the form `{"type": "content", "value": [...]}` becomes texts and files, as the
  AI SDK's tools write them.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import UNSET
from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    DocumentUrl,
    FilePart,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserContent,
    UserPromptPart,
    VideoUrl,
)

from rejoin_protocol.events.chunks import Metadata
from rejoin_protocol.events.fold import MessageDict, is_tool, tool_name

DENIED = "Tool call execution denied."
WAITING = "The call has not run yet: it waits for a person's approval. It runs once it is approved."
UNKNOWN = "The run ended before the call returned. Whether it took effect is not known."

type Part = dict[str, Any]

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""The ids that Anthropic and Bedrock accept. Other providers make other ids."""
_PLAIN_IDS = frozenset({"anthropic", "bedrock"})


class ProviderData(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider attached to a part, and needs back with it."""

    model: str
    id: str | None = None
    signature: str | None = None
    details: dict[str, Any] | None = None


class ModelOrigin(msgspec.Struct, frozen=True):
    """The model that writes, or will read, a message.

    `provider` is our name for its kind and the key of its data in provider metadata; `system` is the
    library's name for it.
    """

    provider: str
    model: str
    system: str
    refused_files: frozenset[str] = frozenset()
    """Media types of files that it cannot take."""

    def metadata(self, part: TextPart | ThinkingPart | ToolCallPart | FilePart) -> Metadata:
        """The provider metadata that the log stores with a part of this model's answer."""
        signature = part.signature if isinstance(part, ThinkingPart) else None
        if not (part.id or signature or part.provider_details):
            return UNSET
        data = ProviderData(self.model, part.id, signature, part.provider_details)
        return {self.provider: msgspec.to_builtins(data)}

    def find_own_data(self, metadata: dict[str, Any] | None) -> ProviderData | None:
        """What this model attached to a part; None if another model did."""
        try:
            data = msgspec.convert((metadata or {}).get(self.provider), ProviderData)
        except msgspec.ValidationError:
            return None
        return data if data.model == self.model else None

    def without_signatures(self) -> "ModelOrigin":
        """The same model, to which no provider data of the history is sent: no signatures, no ids."""
        return msgspec.structs.replace(self, model="")

    def call_id(self, id: str) -> str:
        """The id of a call in a form that this provider accepts; the same for the call and its result."""
        if self.provider not in _PLAIN_IDS or _CALL_ID.fullmatch(id):
            return id
        return f"call_{hashlib.sha256(id.encode()).hexdigest()[:24]}"

    def attributes(self, data: ProviderData | None) -> dict[str, Any]:
        """The provider data as arguments of the library's part."""
        if data is None:
            return {}
        return {"id": data.id, "provider_name": self.system, "provider_details": data.details}


def to_messages(instructions: str, turns: Iterable[MessageDict], origin: ModelOrigin) -> list[ModelMessage]:
    """The conversation for the model `origin`. Turns come oldest first; the last is the answer so far."""
    messages = [message for turn in turns for message in _turn(turn, origin)]
    last_request = next(
        (message for message in reversed(messages) if isinstance(message, ModelRequest)), None
    )
    if last_request is None:
        last_request = ModelRequest(parts=[])
        messages.append(last_request)
    last_request.instructions = instructions or None
    return messages


def _turn(turn: MessageDict, origin: ModelOrigin) -> Iterator[ModelMessage]:
    match turn.get("role"):
        case "user":
            yield from _user_request(turn["parts"], origin)
        case "system":
            if text := "".join(part["text"] for part in turn["parts"] if part["type"] == "text"):
                yield ModelRequest(parts=[SystemPromptPart(text)])
        case "assistant":
            for block in _blocks(turn["parts"]):
                if isinstance(block, list):
                    yield from _assistant_messages(block, origin)
                else:
                    yield from _user_request(block["parts"], origin)


def _blocks(parts: Sequence[Part]) -> Iterator[list[Part] | Part]:
    """The steps of an assistant message, and between them the user's steering messages."""
    block: list[Part] = []
    for part in parts:
        if part["type"] not in ("step-start", "steering-message"):
            block.append(part)
            continue
        yield block
        block = []
        if part["type"] == "steering-message":
            yield part
    yield block


def _user_request(parts: Iterable[Part], origin: ModelOrigin) -> Iterator[ModelRequest]:
    content: list[UserContent] = []
    for part in parts:
        if part["type"] == "text" and part["text"]:
            content.append(part["text"])
        elif part["type"] == "file":
            content.append(_file(part, origin))
    match content:
        case []:
            return
        case [str() as only]:
            yield ModelRequest(parts=[UserPromptPart(only)])
        case _:
            yield ModelRequest(parts=[UserPromptPart(content)])


def _assistant_messages(block: Sequence[Part], origin: ModelOrigin) -> Iterator[ModelMessage]:
    response_parts = [_to_response_part(part, origin) for part in block]
    shown = [part for part in response_parts if part is not None]
    while shown and isinstance(shown[-1], ThinkingPart):
        shown.pop()
    if not shown:
        return
    # Ids of single items are valid only in a response that this provider gave.
    has_provider_data = any(part.provider_name for part in shown)
    yield ModelResponse(parts=shown, provider_name=origin.system if has_provider_data else None)
    if results := [_tool_return(part, origin) for part in block if _is_call(part)]:
        yield ModelRequest(parts=results)


def _to_response_part(part: Part, origin: ModelOrigin) -> ModelResponsePart | None:
    """A part of an answer as the library's part; None if the model is not shown it again."""
    match part:
        case {"type": "text", "text": str() as text} if text:
            return TextPart(text, **origin.attributes(origin.find_own_data(part.get("providerMetadata"))))
        case {"type": "reasoning", "text": str() as text}:
            data = origin.find_own_data(part.get("providerMetadata"))
            if data is None:
                return None
            return ThinkingPart(text, signature=data.signature, **origin.attributes(data))
        case {"type": "file", "url": str() as url} if url.startswith("data:"):
            file = _file(part, origin)
            own = origin.attributes(origin.find_own_data(part.get("providerMetadata")))
            return FilePart(file, **own) if isinstance(file, BinaryContent) else None
        case _ if _is_call(part):
            # The metadata of a call whose arguments did not fit is stored with its result.
            data = origin.find_own_data(part.get("callProviderMetadata"))
            data = data or origin.find_own_data(part.get("resultProviderMetadata"))
            own = origin.attributes(data)
            call_id = origin.call_id(part["toolCallId"])
            return ToolCallPart(tool_name(part), _arguments(part.get("input")), call_id, **own)
        case _:
            return None


def _is_call(part: Part) -> bool:
    """Whether it is a complete call of a Rejoin tool, not one that the provider executed itself."""
    return is_tool(part) and part.get("state") != "input-streaming" and not part.get("providerExecuted")


def _arguments(value: Any) -> str | dict[str, Any]:
    """A call's input. The library wraps text, which stands for anything else, into an object."""
    return value if isinstance(value, dict) else _text_of(value)


def _tool_return(part: Part, origin: ModelOrigin) -> ToolReturnPart:
    name, call_id = tool_name(part), origin.call_id(part["toolCallId"])
    approval = part.get("approval") or {}
    match part.get("state"):
        case "output-available":
            return ToolReturnPart(name, _tool_output(part.get("output"), origin), call_id)
        case "output-error":
            return ToolReturnPart(name, part["errorText"], call_id, outcome="failed")
        case "output-denied":
            return ToolReturnPart(name, approval.get("reason") or DENIED, call_id, outcome="denied")
        case "approval-responded" if not approval.get("approved"):
            return ToolReturnPart(name, approval.get("reason") or DENIED, call_id, outcome="denied")
        case "approval-requested":
            return ToolReturnPart(name, WAITING, call_id, outcome="interrupted")
        case _:
            return ToolReturnPart(name, UNKNOWN, call_id, outcome="interrupted")


def _tool_output(value: Any, origin: ModelOrigin) -> str | list[UserContent]:
    """A tool's output: its texts and files if it consists of these, else its JSON text."""
    if isinstance(value, dict) and value.get("type") == "content" and isinstance(value.get("value"), list):
        shown = [_to_content(item, origin) for item in value["value"]]
        known = [content for content in shown if content is not None]
        if known and len(known) == len(shown):
            return known
    return _text_of(value)


def _to_content(item: Any, origin: ModelOrigin) -> UserContent | None:
    """A content item of the AI SDK; None if it has another form."""
    match item:
        case {"type": "text", "text": str() as text}:
            return text
        case {
            "type": "media" | "image-data" | "file-data",
            "data": str() as data,
            "mediaType": str() as media_type,
        }:
            return _file({"url": f"data:{media_type};base64,{data}", "mediaType": media_type}, origin)
        case {"type": "image-url" | "file-url" as kind, "url": str() as url}:
            assumed = "image/*" if kind == "image-url" else ""
            return _file({"url": url, "mediaType": item.get("mediaType", assumed)}, origin)
        case _:
            return None


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _file(part: Part, origin: ModelOrigin) -> UserContent:
    """An attachment: its bytes, else its address. A sentence stands for one that cannot be read, or that this
    model cannot take.
    """
    url, media_type = part["url"], part.get("mediaType") or ""
    name = part.get("filename") or "of this message"
    if media_type in origin.refused_files:
        return f"[The attachment {name} ({media_type}) is left out: this model cannot read such files.]"
    exact = media_type if "/" in media_type and not media_type.endswith("*") else None
    try:
        if url.startswith("data:"):
            return _inline(url, exact)
        if url.startswith(("http://", "https://")):
            return _remote(media_type.partition("/")[0])(url, media_type=exact)
    except binascii.Error:
        pass
    return f"[The attachment {name} cannot be read.]"


def _remote(kind: str) -> type[ImageUrl | AudioUrl | VideoUrl | DocumentUrl]:
    match kind:
        case "image":
            return ImageUrl
        case "audio":
            return AudioUrl
        case "video":
            return VideoUrl
        case _:
            return DocumentUrl


def _inline(url: str, media_type: str | None) -> BinaryContent:
    head, _, body = url.removeprefix("data:").partition(",")
    data = unquote_to_bytes(body)
    if head.endswith(";base64"):
        data = base64.b64decode(data)
    return BinaryContent(data, media_type=media_type or head.partition(";")[0] or "text/plain")
