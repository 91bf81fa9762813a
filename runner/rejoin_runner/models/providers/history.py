"""A stored conversation as a provider's messages. Pure.

Owns the way from UI messages to pydantic-ai's messages, and what of a provider's own data (ids, signatures)
survives in between; never what goes over the wire, that is the library's. The law is
`convertToModelMessages` of npm `ai` 7, with four rules of our own:

* A call that never got a result, because its run was aborted, is answered with a sentence. Providers refuse
  a call without an answer; leaving the call out would hide a side effect from the model, and would leave
  signed reasoning in front of it dangling, which Anthropic and OpenAI refuse as well.
* Reasoning goes back to the very model that wrote it, and to no other: not to another provider, who cannot
  read it, and not to another model of the same one, where the signature is refused or the text ignored.
* Reasoning that led to nothing (the run was cut off) is left out.
* A tool's output of the form `{"type": "content", "value": [...]}` is shown as what it holds: texts and
  files, as the AI SDK's tools write them.
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
from rejoin_protocol.events.fold import UIMessage, is_tool, tool_name

DENIED = "Tool call execution denied."
UNDECIDED = "The call was not run: the run ended before anybody approved it."
UNKNOWN = "The run ended before the call returned. Whether it took effect is not known."

type Part = dict[str, Any]

_CALL_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""What Anthropic and Bedrock take; a call that another provider made may have another one."""
_PLAIN_IDS = frozenset({"anthropic", "bedrock"})


class ProviderData(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider attached to a part, and wants to see again with it."""

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

    def metadata(self, part: TextPart | ThinkingPart | ToolCallPart | FilePart) -> Metadata:
        """What goes into the log with a part of this model's answer."""
        signature = part.signature if isinstance(part, ThinkingPart) else None
        if not (part.id or signature or part.provider_details):
            return UNSET
        kept = ProviderData(self.model, part.id, signature, part.provider_details)
        return {self.provider: msgspec.to_builtins(kept)}

    def own(self, metadata: dict[str, Any] | None) -> ProviderData | None:
        """What this very model attached to a part."""
        try:
            kept = msgspec.convert((metadata or {}).get(self.provider), ProviderData)
        except msgspec.ValidationError:
            return None
        return kept if kept.model == self.model else None

    def elsewhere(self) -> "ModelOrigin":
        """The same reader, to whom nothing is its own: what it signed is of no use to it any more."""
        return msgspec.structs.replace(self, model="")

    def call_id(self, id: str) -> str:
        """The id of a call as this provider takes it, the same for the call and its result."""
        if self.provider not in _PLAIN_IDS or _CALL_ID.fullmatch(id):
            return id
        return f"call_{hashlib.sha256(id.encode()).hexdigest()[:24]}"

    def attributes(self, kept: ProviderData | None) -> dict[str, Any]:
        """The same, as arguments of the library's part."""
        if kept is None:
            return {}
        return {"id": kept.id, "provider_name": self.system, "provider_details": kept.details}


def to_messages(instructions: str, turns: Iterable[UIMessage], origin: ModelOrigin) -> list[ModelMessage]:
    """The conversation for the model `origin`. Turns come oldest first; the last is the answer so far."""
    messages = [message for turn in turns for message in _turn(turn, origin)]
    asked = next((message for message in reversed(messages) if isinstance(message, ModelRequest)), None)
    if asked is None:
        asked = ModelRequest(parts=[])
        messages.append(asked)
    asked.instructions = instructions or None
    return messages


def _turn(turn: UIMessage, origin: ModelOrigin) -> Iterator[ModelMessage]:
    match turn.get("role"):
        case "user":
            yield from _asked(turn["parts"])
        case "system":
            if text := "".join(part["text"] for part in turn["parts"] if part["type"] == "text"):
                yield ModelRequest(parts=[SystemPromptPart(text)])
        case "assistant":
            for block in _blocks(turn["parts"]):
                if isinstance(block, list):
                    yield from _answered(block, origin)
                else:
                    yield from _asked(block["parts"])


def _blocks(parts: Sequence[Part]) -> Iterator[list[Part] | Part]:
    """The steps of an assistant message, and between them what the user threw in."""
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


def _asked(parts: Iterable[Part]) -> Iterator[ModelRequest]:
    content: list[UserContent] = []
    for part in parts:
        if part["type"] == "text" and part["text"]:
            content.append(part["text"])
        elif part["type"] == "file":
            content.append(_file(part))
    match content:
        case []:
            return
        case [str() as only]:
            yield ModelRequest(parts=[UserPromptPart(only)])
        case _:
            yield ModelRequest(parts=[UserPromptPart(content)])


def _answered(block: Sequence[Part], origin: ModelOrigin) -> Iterator[ModelMessage]:
    said = [spoken for part in block if (spoken := _spoken(part, origin)) is not None]
    while said and isinstance(said[-1], ThinkingPart):
        said.pop()
    if not said:
        return
    # Ids of single items are valid only in a response that is the provider's own.
    own = any(part.provider_name for part in said)
    yield ModelResponse(parts=said, provider_name=origin.system if own else None)
    if results := [_result(part, origin) for part in block if _is_call(part)]:
        yield ModelRequest(parts=results)


def _spoken(part: Part, origin: ModelOrigin) -> ModelResponsePart | None:
    """One part of an answer, if the model is to see it again."""
    match part:
        case {"type": "text", "text": str() as text} if text:
            return TextPart(text, **origin.attributes(origin.own(part.get("providerMetadata"))))
        case {"type": "reasoning", "text": str() as text}:
            kept = origin.own(part.get("providerMetadata"))
            if kept is None:
                return None
            return ThinkingPart(text, signature=kept.signature, **origin.attributes(kept))
        case {"type": "file", "url": str() as url} if url.startswith("data:"):
            file = _file(part)
            own = origin.attributes(origin.own(part.get("providerMetadata")))
            return FilePart(file, **own) if isinstance(file, BinaryContent) else None
        case _ if _is_call(part):
            # A call whose arguments did not fit is over at once, and its metadata stands with the result.
            asked, over = part.get("callProviderMetadata"), part.get("resultProviderMetadata")
            own = origin.attributes(origin.own(asked) or origin.own(over))
            call_id = origin.call_id(part["toolCallId"])
            return ToolCallPart(tool_name(part), _arguments(part.get("input")), call_id, **own)
        case _:
            return None


def _is_call(part: Part) -> bool:
    """Whether it is a complete call of one of our tools. Those the provider ran itself are its own affair."""
    return is_tool(part) and part.get("state") != "input-streaming" and not part.get("providerExecuted")


def _arguments(value: Any) -> str | dict[str, Any]:
    """A call's input. What is not an object goes as text, which the library wraps into one."""
    return value if isinstance(value, dict) else _text(value)


def _result(part: Part, origin: ModelOrigin) -> ToolReturnPart:
    name, call_id = tool_name(part), origin.call_id(part["toolCallId"])
    approval = part.get("approval") or {}
    match part.get("state"):
        case "output-available":
            return ToolReturnPart(name, _output(part.get("output")), call_id)
        case "output-error":
            return ToolReturnPart(name, part["errorText"], call_id, outcome="failed")
        case "output-denied":
            return ToolReturnPart(name, approval.get("reason") or DENIED, call_id, outcome="denied")
        case "approval-responded" if not approval.get("approved"):
            return ToolReturnPart(name, approval.get("reason") or DENIED, call_id, outcome="denied")
        case "approval-requested":
            return ToolReturnPart(name, UNDECIDED, call_id, outcome="interrupted")
        case _:
            return ToolReturnPart(name, UNKNOWN, call_id, outcome="interrupted")


def _output(value: Any) -> str | list[UserContent]:
    """A tool's output: texts and files if that is what it holds, else its JSON."""
    if isinstance(value, dict) and value.get("type") == "content" and isinstance(value.get("value"), list):
        shown = [_shown(item) for item in value["value"]]
        known = [content for content in shown if content is not None]
        if known and len(known) == len(shown):
            return known
    return _text(value)


def _shown(item: Any) -> UserContent | None:
    """An item of an output in the AI SDK's words; None for one that has another form."""
    match item:
        case {"type": "text", "text": str() as text}:
            return text
        case {
            "type": "media" | "image-data" | "file-data",
            "data": str() as data,
            "mediaType": str() as media_type,
        }:
            return _file({"url": f"data:{media_type};base64,{data}", "mediaType": media_type})
        case {"type": "image-url" | "file-url" as kind, "url": str() as url}:
            assumed = "image/*" if kind == "image-url" else ""
            return _file({"url": url, "mediaType": item.get("mediaType", assumed)})
        case _:
            return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _file(part: Part) -> UserContent:
    """An attachment: its bytes if we have them, else its address. One that cannot be read is named."""
    url, media_type = part["url"], part.get("mediaType") or ""
    exact = media_type if "/" in media_type and not media_type.endswith("*") else None
    try:
        if url.startswith("data:"):
            return _inline(url, exact)
        if url.startswith(("http://", "https://")):
            return _remote(media_type.partition("/")[0])(url, media_type=exact)
    except binascii.Error:
        pass
    return f"[The attachment {part.get('filename') or 'of this message'} cannot be read.]"


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
