"""Reads the requests of OpenAI's clients (OpenAI API reference): checks fields, converts messages. Pure.

System and developer messages are instructions, which are kept apart from the conversation. Two things are
dropped silently: earlier turns of a session that exists, because the stored ones count, and what a client
sends back about calls, except the outputs at the end of a request.

`strict`: an agent has its own instructions and settings, and its tools run here. A field that would change
them has no effect, so it is refused by name, unless its value is what happens anyway (`n: 1`, `null`). System
and developer messages are refused for the same reason, and calls that were not made here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from rejoin_gateway.api.openai.tool_calls import SentOutput, check_calls, parse_call_id, parse_output
from rejoin_gateway.core.answered_calls import AnsweredCall
from rejoin_gateway.core.message_input import ClientMessage, parse_reason
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import ApprovalId
from rejoin_protocol.limits import PARTS_MAX, RepeatedParts, RepeatedText

IDLE = frozenset(
    {"parallel_tool_calls", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"}
    | {"safety_identifier", "user"}
)
"""Fields that may have any value, because they do not change the answer."""
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
    "top_logprobs": (0,),
    "top_p": (1,),
    "truncation": ("disabled",),
}
"""Fields that may only have the values that apply without them."""
OWN_ITEMS = frozenset({"reasoning", "mcp_call", "mcp_approval_request"})
"""Output items that a client may send back; they have no effect."""
OUTPUT_ITEM = "function_call_output"
DECISION_ITEM = "mcp_approval_response"
ANSWER_ITEMS = frozenset({OUTPUT_ITEM, DECISION_ITEM})
"""Items that answer what a response waits for."""
SYSTEM_ROLES = ("system", "developer")
CONVERSATION = "conversation_id"
"""The key of `metadata` that names the session."""
SYSTEM_REFUSED = "the agent has its own instructions: messages with role {} are not taken"
SHOWN_NAME_CHARS_MAX = 64


STRICT_FIELDS = frozenset(
    {"model", "messages", "input", "stream", "stream_options", "background", "metadata", "tools"}
    | {"tool_choice", "previous_response_id", "conversation"}
)
"""Fields that have an effect for a strict gateway."""


def check_fields(fields: Mapping[str, Any], taken: Collection[str]) -> None:
    """Raises `Invalid` for the first field that has no effect here. `taken`: fields that have one."""
    for name, value in fields.items():
        has_effect = name in taken and name not in NEUTRAL
        if has_effect or name in IDLE or value is None or value in NEUTRAL.get(name, ()):
            continue
        shown = name[:SHOWN_NAME_CHARS_MAX]
        allowed = " or ".join(msgspec.json.encode(value).decode() for value in NEUTRAL.get(name, ()))
        detail = f"{shown} has no effect here" + (f": only {allowed} is taken" if allowed else "")
        raise Invalid(detail, f"/{shown}")


class InputMessage(msgspec.Struct, frozen=True):
    """A message: parts as `message_input.build_user_message` takes them, and their JSON pointers.

    `place` is the pointer of the content.
    """

    role: str
    parts: Sequence[dict[str, Any]]
    places: Sequence[str]
    place: str


class InputTurn(msgspec.Struct, frozen=True):
    """The message to answer, the JSON pointers of its parts, and the turns before it."""

    message: ClientMessage
    places: Sequence[str]
    earlier: Sequence[ClientMessage]


def split_last_turn(
    messages: Sequence[InputMessage], new_id: str, pointer: str, *, joins_user_messages: bool
) -> InputTurn:
    """The user's last message, under the id `new_id`, and the turns before it. Raises `Invalid`.

    `joins_user_messages`: all user messages at the end are one message. That is right for clients that send
    only what is new. Clients that send the whole conversation each time may repeat a known message before the
    last one.
    """
    if not messages:
        raise Invalid("expected at least one message", pointer)
    if messages[-1].role != "user":
        raise Invalid("the last message must be the user's: an answer cannot be continued", pointer)
    first = len(messages) - 1
    while joins_user_messages and first and messages[first - 1].role == "user":
        first -= 1
    last = messages[first:]
    for message in last:
        if not message.parts:
            raise Invalid("a user's message must not be empty", message.place)
    parts = [part for message in last for part in message.parts]
    places = [place for message in last for place in message.places]
    earlier = [
        ClientMessage(
            f"imported_{number}", "user" if message.role == "user" else "assistant", list(message.parts)
        )
        for number, message in enumerate(messages[:first])
    ]
    return InputTurn(ClientMessage(new_id, "user", parts), places, earlier)


class ChatMessage(msgspec.Struct, frozen=True):
    """One of the `messages` of a chat completion."""

    role: RepeatedText
    content: RepeatedText | RepeatedParts | None = None
    tool_calls: Annotated[list[Any], Meta(max_length=PARTS_MAX)] | None = None
    tool_call_id: RepeatedText | None = None
    function_call: Any = None


def from_chat_messages(messages: Sequence[ChatMessage], *, strict: bool) -> list[InputMessage]:
    """The messages of a chat completion, without outputs of tools. Raises `Invalid`."""
    converted = []
    for number, message in enumerate(messages):
        place = f"/messages/{number}"
        if message.role == "tool":
            if strict:
                parse_call_id(message.tool_call_id, f"{place}/tool_call_id")
            continue
        if message.role == "function" and not strict:
            continue
        _check_role(message.role, place, strict=strict)
        if strict:
            check_calls(message.tool_calls or (), f"{place}/tool_calls")
        if strict and message.function_call:
            raise Invalid("only tool_calls are taken", f"{place}/function_call")
        converted.append(_convert_message(message.role, message.content, place, _chat_part))
    return converted


def split_instructions(messages: Sequence[InputMessage]) -> tuple[list[InputMessage], list[InputMessage]]:
    """The instructions among the messages, and the conversation."""
    instructions = [message for message in messages if message.role in SYSTEM_ROLES]
    return instructions, [message for message in messages if message.role not in SYSTEM_ROLES]


def chat_outputs(messages: Sequence[ChatMessage], end: int) -> list[SentOutput]:
    """The outputs in the messages directly before message `end`, oldest first. Raises `Invalid`."""
    first = end
    while first and messages[first - 1].role == "tool":
        first -= 1
    return [
        parse_output(one.tool_call_id, one.content, f"/messages/{number}", "tool_call_id", "content")
        for number, one in enumerate(messages[first:end], first)
    ]


def from_response_input(input: str | Sequence[dict[str, Any]], *, strict: bool) -> list[InputMessage]:
    """The messages in a response's `input`. Raises `Invalid`."""
    if isinstance(input, str):
        return [_convert_message("user", input, "", _input_part, root="/input")]
    converted = []
    for number, item in enumerate(input):
        place = f"/input/{number}"
        match item:
            case {"type": str(kind)} if kind in OWN_ITEMS:
                continue
            case {"type": "function_call" | "function_call_output"}:
                if strict:
                    parse_call_id(item.get("call_id"), f"{place}/call_id")
                continue
            case {"role": str(role), "content": str() | list() as content} if (
                item.get("type", "message") == "message"
            ):
                _check_role(role, place, strict=strict)
                converted.append(_convert_message(role, content, place, _input_part))
            case {"type": str(kind)} if kind != "message" and kind not in ANSWER_ITEMS and not strict:
                continue
            case _:
                raise Invalid("an input item is a message; an mcp_approval_response stands alone", place)
    return converted


class InputAnswers(msgspec.Struct, frozen=True):
    """The answers that an `input` has before the messages at its end: outputs of client tools, decisions of
    approvals. `are_last`: no message follows.
    """

    outputs: Sequence[SentOutput] = ()
    decisions: Sequence[AnsweredCall] = ()
    are_last: bool = False


def parse_answers(input: str | Sequence[dict[str, Any]]) -> InputAnswers:
    """The answers in an `input`. Raises `Invalid`, also for decisions beside messages: what they continue has
    the messages already.
    """
    if isinstance(input, str):
        return InputAnswers()
    end = len(input)
    while end and _kind_of(input[end - 1]) == "message":
        end -= 1
    first = end
    while first and _kind_of(input[first - 1]) in ANSWER_ITEMS:
        first -= 1
    outputs = [
        parse_output(item.get("call_id"), item.get("output"), f"/input/{number}", "call_id", "output")
        for number, item in enumerate(input[first:end], first)
        if _kind_of(item) == OUTPUT_ITEM
    ]
    # Beside outputs, a client may send earlier decisions back with the rest of its input.
    begin = first if outputs else 0
    decisions = [
        _parse_decision(item, f"/input/{number}")
        for number, item in enumerate(input[begin:], begin)
        if _kind_of(item) == DECISION_ITEM
    ]
    if decisions and (end < len(input) or (first and not outputs)):
        raise Invalid(
            "approval responses and messages are different requests: send one after the other", "/input"
        )
    return InputAnswers(outputs, decisions, are_last=end == len(input))


def _kind_of(item: dict[str, Any]) -> Any:
    return item.get("type", "message")


def _parse_decision(item: dict[str, Any], place: str) -> AnsweredCall:
    match item:
        case {"approval_request_id": str(id), "approve": bool(approved)}:
            return AnsweredCall(ApprovalId(id), None, approved, parse_reason(item.get("reason"), place))
        case _:
            raise Invalid("an approval response needs approval_request_id and approve", place)


def _check_role(role: str, place: str, *, strict: bool) -> None:
    if role in SYSTEM_ROLES:
        if strict:
            raise Invalid(SYSTEM_REFUSED.format(role), f"{place}/role")
        return
    if role == "function":
        raise Invalid("only outputs in messages of role tool are taken", f"{place}/role")
    if role not in ("user", "assistant"):
        raise Invalid("a role is user, assistant, system, developer or tool", f"{place}/role")


def _convert_message(
    role: str,
    content: Any,
    place: str,
    convert_part: Callable[[Any, str], dict[str, Any]],
    root: str | None = None,
) -> InputMessage:
    """`root`: the content's JSON pointer if it is not `<place>/content`."""
    pointer = f"{place}/content" if root is None else root
    if not content:
        return InputMessage(role, [], [], pointer)
    if isinstance(content, str):
        return InputMessage(role, [{"type": "text", "text": content}], [pointer], pointer)
    places = [f"{pointer}/{number}" for number in range(len(content))]
    parts = [convert_part(part, place) for part, place in zip(content, places, strict=True)]
    return InputMessage(role, parts, places, pointer)


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
    """A file part without a media type: the type is found from the bytes."""
    return {"type": "image", "image": url} | ({"filename": filename} if filename is not None else {})
