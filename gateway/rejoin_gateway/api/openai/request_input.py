"""What OpenAI's clients send: which fields of a request can be honoured, and its messages as ours. Pure.

The law is OpenAI's API reference. The agent has its own instructions, tools and settings, and its tools run
here: what a client says about those would have no effect, so a request that says it is refused, by the
field's name, unless it says what is true anyway (`n: 1`, `tools: []`, `null`). That goes for system and
developer messages too. Nothing is dropped silently, but for two things: an earlier turn of a conversation
that is stored already, since the stored one wins, and what our own output items say about tools.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
from rejoin_adapters.records import Decision
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import ApprovalId

from rejoin_gateway.core.message_input import MESSAGES_MAX, ClientMessage

IDLE = frozenset(
    {"parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
    | {"safety_identifier", "user"}
)
"""Fields that may say anything, because they ask for nothing in the answer."""
NEUTRAL: Mapping[str, Sequence[Any]] = {
    "frequency_penalty": (0,),
    "function_call": ("auto", "none"),
    "functions": ([],),
    "include": ([],),
    "instructions": ("",),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "stop": ([],),
    "store": (True,),
    "temperature": (1,),
    "text": ({}, {"format": {"type": "text"}}),
    "tool_choice": ("auto", "none"),
    "tools": ([],),
    "top_logprobs": (0,),
    "top_p": (1,),
    "truncation": ("disabled",),
}
"""Fields that may only say what is so without them."""
OWN_ITEMS = frozenset({"reasoning", "mcp_call", "mcp_approval_request"})
"""Output items that a client may send back; they have no effect."""
SYSTEM = "the agent has its own instructions: messages of role {} are not taken"
NAME_CHARS_MAX = 64
NEUTRAL_BYTES_MAX = 256
"""A value that says nothing is short; a long one is not even looked at."""


def check_fields(fields: Mapping[str, msgspec.Raw], taken: Collection[str]) -> None:
    """Refuse a request that asks for what it would not get. Raises `Invalid` naming the field."""
    for name, raw in fields.items():
        if name in taken or name in IDLE or _is_neutral(raw, NEUTRAL.get(name, ())):
            continue
        shown = name[:NAME_CHARS_MAX]
        only = " or ".join(msgspec.json.encode(one).decode() for one in NEUTRAL.get(name, ()))
        detail = f"{shown} cannot be honoured here" + (f", other than {only}" if only else "")
        raise Invalid(detail, f"/{shown}")


def _is_neutral(raw: msgspec.Raw, neutral: Sequence[Any]) -> bool:
    if len(raw) > NEUTRAL_BYTES_MAX:
        return False
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a raw value is not looked at before: 1e999
        return False
    return value is None or value in neutral


class InputMessage(msgspec.Struct, frozen=True):
    """A message: its parts in the form that `turns.user` takes, and where the client wrote each."""

    role: str
    parts: Sequence[dict[str, Any]]
    places: Sequence[str]
    place: str


class InputTurn(msgspec.Struct, frozen=True):
    """What is to be answered, where each of its parts was written, and the turns before it."""

    message: ClientMessage
    places: Sequence[str]
    earlier: Sequence[ClientMessage]


def split_last_turn(said: Sequence[InputMessage], fresh: str, place: str, *, new: bool) -> InputTurn:
    """The user's last message, with the id `fresh`. Raises `Invalid`.

    `new`: a client sends what is new, so all of the user's messages at the end are that one; else it sends
    everything again each time, and what is before the last one may be known.
    """
    if not 0 < len(said) <= MESSAGES_MAX:
        raise Invalid(f"expected 1 to {MESSAGES_MAX} messages", place)
    if said[-1].role != "user":
        raise Invalid("the last message is the user's: an answer that is begun is not gone on with", place)
    first = len(said) - 1
    while new and first and said[first - 1].role == "user":
        first -= 1
    last = said[first:]
    for one in last:
        if not one.parts:
            raise Invalid("a user's message says something", one.place)
    parts = [part for one in last for part in one.parts]
    places = [where for one in last for where in one.places]
    earlier = [
        ClientMessage(f"imported_{number}", "user" if one.role == "user" else "assistant", list(one.parts))
        for number, one in enumerate(said[:first])
    ]
    return InputTurn(ClientMessage(fresh, "user", parts), places, earlier)


class ChatMessage(msgspec.Struct, frozen=True):
    """One of a chat completion's `messages`."""

    role: str
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[Any] | None = None
    function_call: Any = None


def from_chat_messages(messages: Sequence[ChatMessage]) -> list[InputMessage]:
    """The messages of a chat completion. Raises `Invalid`."""
    said = []
    for number, message in enumerate(messages):
        place = f"/messages/{number}"
        _check_role(message.role, place)
        for field, value in (("tool_calls", message.tool_calls), ("function_call", message.function_call)):
            if value:
                raise Invalid("tools run here: calls are not taken from a client", f"{place}/{field}")
        said.append(_said(message.role, message.content, place, _chat_part))
    return said


def from_response_input(input: str | Sequence[dict[str, Any]]) -> list[InputMessage]:
    """The messages in a response's `input`. Raises `Invalid`."""
    if isinstance(input, str):
        return [_said("user", input, "", _input_part, root="/input")]
    said = []
    for number, item in enumerate(input):
        place = f"/input/{number}"
        match item:
            case {"type": str(kind)} if kind in OWN_ITEMS:
                continue
            case {"role": str(role), "content": str() | list() as content} if (
                item.get("type", "message") == "message"
            ):
                _check_role(role, place)
                said.append(_said(role, content, place, _input_part))
            case _:
                raise Invalid("an input item is a message, or an mcp_approval_response alone", place)
    return said


def parse_decisions(input: str | Sequence[dict[str, Any]]) -> list[Decision]:
    """The answers in an `input` that holds answers; none if it holds none. Raises `Invalid`."""
    found: list[Decision] = []
    for number, item in enumerate(input if not isinstance(input, str) else ()):
        if item.get("type") != "mcp_approval_response":
            continue
        match item:
            case {"approval_request_id": str(id), "approve": bool(approved)}:
                reason = item.get("reason")
                found.append(Decision(ApprovalId(id), approved, reason if isinstance(reason, str) else None))
            case _:
                raise Invalid("an answer needs approval_request_id and approve", f"/input/{number}")
    if found and len(found) != len(input):
        raise Invalid("answers and messages are different requests: send one after the other", "/input")
    return found


def _check_role(role: str, place: str) -> None:
    if role in ("system", "developer"):
        raise Invalid(SYSTEM.format(role), f"{place}/role")
    if role in ("tool", "function"):
        raise Invalid("tools run here: results are not taken from a client", f"{place}/role")
    if role not in ("user", "assistant"):
        raise Invalid("a role is user or assistant", f"{place}/role")


def _said(role: str, content: Any, place: str, part_of: Any, root: str | None = None) -> InputMessage:
    """A message of either API, whose content's parts are read by `part_of`."""
    at = f"{place}/content" if root is None else root
    if not content:
        return InputMessage(role, [], [], at)
    if isinstance(content, str):
        return InputMessage(role, [{"type": "text", "text": content}], [at], at)
    places = [f"{at}/{number}" for number in range(len(content))]
    parts = [part_of(part, where) for part, where in zip(content, places, strict=True)]
    return InputMessage(role, parts, places, at)


def _chat_part(part: Any, place: str) -> dict[str, Any]:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return {"type": "image", "image": url}
        case {"type": "file", "file": {"file_data": str(url), **more}}:
            return _file(url, more.get("filename"))
        case _:
            raise Invalid(
                "a content part is {type: text, text}, {type: image_url, image_url: {url}} or "
                "{type: file, file: {file_data, filename?}}",
                place,
            )


def _input_part(part: Any, place: str) -> dict[str, Any]:
    match part:
        case {"type": "input_text" | "output_text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "refusal", "refusal": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "input_image", "image_url": str(url)}:
            return {"type": "image", "image": url}
        case {"type": "input_file", "file_data": str(url), **more}:
            return _file(url, more.get("filename"))
        case {"type": "input_file", "file_url": str(url), **more}:
            return _file(url, more.get("filename"))
        case _:
            raise Invalid(
                "a content part is {type: input_text, text}, {type: input_image, image_url} or "
                "{type: input_file, file_data | file_url, filename?}",
                place,
            )


def _file(url: str, filename: Any) -> dict[str, Any]:
    """A file whose type its bytes say."""
    return {"type": "image", "image": url} | ({"filename": filename} if filename is not None else {})
