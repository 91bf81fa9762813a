"""The body of `POST /api/agents/{agent}/{session}`: one message, decisions of approvals, or both. Pure.

The body is a list of items, or one item. An item is a message or an approval. A message is a string, a list
of parts, a UI message, `{message: <one of these>}`, or `{messages: […]}`, of which the last one counts, and
the answers to approvals in the assistant messages directly before it, or in it.
Several messages in a list are one turn: they are joined to one message. Approvals in the same list come
before it, wherever they stand: they can only be about questions that were asked before. The forms have no
tag, so JSON is decoded once and the forms are told apart by their shape.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from rejoin_adapters.store_types import WhenBusy
from rejoin_gateway.core import answered_calls
from rejoin_gateway.core.answered_calls import AnsweredCall
from rejoin_gateway.core.message_input import ClientMessage, MessageOptions
from rejoin_gateway.core.tool_outputs import OUTPUT_KIND, ToolOutput
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import DATA_PREFIX
from rejoin_protocol.ids import CallId
from rejoin_protocol.limits import (
    ID_CHARS_MAX,
    MESSAGES_MAX,
    OBJECT_KEYS_MAX,
    REASON_CHARS_MAX,
    TEXT_BYTES_MAX,
    URL_CHARS_MAX,
)

PART_TYPES = ("text", "file", "image", "image_url")


class LocatedMessage(msgspec.Struct, frozen=True):
    """A message, its JSON pointer, and those of its parts if the client did not write them as `parts`."""

    message: ClientMessage
    pointer: str
    places: Sequence[str] = ()

    @property
    def part_places(self) -> Sequence[str]:
        """The JSON pointers of all parts."""
        return self.places or [f"{self.pointer}/parts/{number}" for number in range(len(self.message.parts))]


class Decisions(msgspec.Struct, frozen=True):
    """Answers to approvals, and outputs of client tools."""

    answers: Sequence[AnsweredCall] = ()
    outputs: Sequence[ToolOutput] = ()

    def __bool__(self) -> bool:
        return bool(self.answers or self.outputs)


class NewMessage(msgspec.Struct, frozen=True):
    """A message to answer. `context` is the request context of its run, `tools` are the client tools that the
    request brings for it, at `tools_pointer`; None if the body has none.

    `answers` are answers to approvals, `outputs` those of client tools, in the client's messages before this
    one: a client repeats old ones there. `decisions` are items of their own, which say something new. All of
    them come before the message.
    """

    located: LocatedMessage
    options: MessageOptions
    context: Any
    answers: Sequence[AnsweredCall] = ()
    outputs: Sequence[ToolOutput] = ()
    decisions: Decisions = Decisions()
    tools: Any = None
    tools_pointer: str = ""


type SendBody = NewMessage | Decisions


def parse_send_body(body: Any, new_id: str) -> SendBody:
    """The body, decoded from JSON. `new_id`: for a message without an id. Raises `Invalid` with a pointer."""
    items = body if isinstance(body, list) and not _is_parts(body) else [body]
    if len(items) > MESSAGES_MAX:
        raise Invalid(f"a request has at most {MESSAGES_MAX} messages or approvals, not {len(items)}")
    answers: list[AnsweredCall] = []
    outputs: list[ToolOutput] = []
    messages: list[NewMessage] = []
    for number, item in enumerate(items):
        pointer = f"/{number}" if items is body else ""
        if isinstance(item, dict) and item.get("type") == OUTPUT_KIND:
            outputs.append(_parse_output(item, pointer))
        elif found := _parse_answers(item, pointer):
            answers += found
        else:
            messages.append(_parse_new_message(item, pointer, new_id))
    decisions = Decisions(answers, outputs)
    if messages:
        message = messages[0] if len(messages) == 1 else _join(messages)
        return msgspec.structs.replace(message, decisions=decisions)
    if not decisions:
        raise Invalid("expected a message or an approval")
    return decisions


def _parse_output(item: dict[str, Any], pointer: str) -> ToolOutput:
    match item:
        case {"toolCallId": str(call), "errorText": str(error)}:
            return ToolOutput(CallId(call), error=error)
        case {"toolCallId": str(call), "output": output}:
            return ToolOutput(CallId(call), output, pointer=f"{pointer}/output")
        case _:
            raise Invalid("an output of a tool needs `toolCallId`, and `output` or `errorText`", pointer)


def _parse_answers(item: Any, pointer: str) -> list[AnsweredCall]:
    """The answers that an item is: an approval, or messages of which the last one is the assistant's."""
    match item:
        case {"type": "approval"}:
            return [answered_calls.parse_answer(item.get("approval"), f"{pointer}/approval")]
        case {"messages": [*_, {"role": "assistant"}] as messages}:
            place = f"{pointer}/messages/{len(messages) - 1}"
            return answered_calls.parse_answers(_as_client_message(messages[-1]), place)
        case _:
            return []


def _parse_new_message(item: Any, pointer: str, new_id: str) -> NewMessage:
    fields = item if isinstance(item, dict) else {}
    messages = fields["messages"] if isinstance(fields.get("messages"), list) else []
    read = list(map(_as_client_message, messages))
    return NewMessage(
        _locate(item, pointer, new_id),
        _options(item, pointer),
        fields.get("context"),
        answered_calls.answers_before(read, f"{pointer}/messages"),
        answered_calls.outputs_before(read),
        tools=fields.get("tools"),
        tools_pointer=f"{pointer}/tools",
    )


def _as_client_message(message: Any) -> ClientMessage:
    """A message that is read for its answers only."""
    match message:
        case {"role": "assistant", "parts": list(parts)}:
            return ClientMessage("", "assistant", [part for part in parts if isinstance(part, dict)])
        case _:
            return ClientMessage("", "user", [])


def _join(messages: Sequence[NewMessage]) -> NewMessage:
    """One message with the parts of all. Its id and metadata are the last one's, because clients know the
    newest message; options, context and tools are those of the last message that has some.
    """
    last = messages[-1].located
    parts = [part for message in messages for part in message.located.message.parts]
    places = [place for message in messages for place in message.located.part_places]
    located = LocatedMessage(msgspec.structs.replace(last.message, parts=parts), last.pointer, places)
    stated_options = [message.options for message in messages if message.options != MessageOptions()]
    contexts = [message.context for message in messages if message.context is not None]
    with_tools = next((message for message in reversed(messages) if message.tools), messages[-1])
    return NewMessage(
        located,
        stated_options[-1] if stated_options else MessageOptions(),
        contexts[-1] if contexts else None,
        [answer for message in messages for answer in message.answers],
        [output for message in messages for output in message.outputs],
        tools=with_tools.tools,
        tools_pointer=with_tools.tools_pointer,
    )


def _is_parts(body: list[Any]) -> bool:
    """Whether a list holds the parts of one message. Else it is a list of items."""
    return bool(body) and all(isinstance(item, dict) and _is_part(item.get("type")) for item in body)


def _is_part(type: Any) -> bool:
    return type in PART_TYPES or (isinstance(type, str) and type.startswith(DATA_PREFIX))


def _locate(item: Any, pointer: str, new_id: str) -> LocatedMessage:
    match item:
        case {"messages": [*_, dict(last)]}:
            return _parse_message(last, f"{pointer}/messages/{len(item['messages']) - 1}", new_id)
        case {"message": message}:
            return _parse_message(message, f"{pointer}/message", new_id)
        case _:
            return _parse_message(item, pointer, new_id)


def _parse_message(item: Any, pointer: str, new_id: str) -> LocatedMessage:
    match item:
        case str(text):
            message = ClientMessage(new_id, "user", [{"type": "text", "text": text}])
            return LocatedMessage(message, pointer, [pointer])
        case list(parts) if _is_parts(parts):
            places = [f"{pointer}/{number}" for number in range(len(parts))]
            return LocatedMessage(ClientMessage(new_id, "user", parts), pointer, places)
        case {"parts": list()} | {"role": "user"} if item.get("role", "user") == "user":
            ui_message = {"id": new_id, "role": "user", **item}
            return LocatedMessage(_convert_item(ui_message, ClientMessage, pointer), pointer)
        case _:
            raise Invalid("expected a message: a string, parts, or a user's UI message", pointer)


def _options(item: Any, pointer: str) -> MessageOptions:
    return _convert_item(item if isinstance(item, dict) else {}, MessageOptions, pointer)


def _convert_item[T](item: Any, kind: type[T], pointer: str) -> T:
    try:
        return msgspec.convert(item, kind)
    except msgspec.ValidationError as fault:
        raise Invalid(str(fault), pointer) from fault


_ITEM = {
    "anyOf": [
        {"type": "string", "maxLength": TEXT_BYTES_MAX, "description": "The text of a message."},
        {
            "type": "object",
            "properties": {
                "message": {"description": "The message: a string, a list of parts, or a UI message."},
                "messages": {
                    "type": "array",
                    "maxItems": MESSAGES_MAX,
                    "description": "The client's messages. Only the last one is sent to the agent; decisions "
                    "of approvals in the assistant's message in it or before it are taken.",
                },
                "context": {
                    "type": "object",
                    "description": "The request context for this run, as the agent's schema says.",
                },
                "tools": {
                    "type": "object",
                    "description": "The client tools of this run, `{description?, parameters?}` by name. "
                    "Refused if the agent takes no tools from requests.",
                },
                "whenBusy": {
                    "enum": [choice.value for choice in WhenBusy],
                    "description": "What happens while the session has an active run: the message waits "
                    "for its turn (`enqueue`, the default), ends the run (`interrupt`), is refused "
                    "(`reject`), or reaches the run's model at its next step (`steer`).",
                },
                "interruptIfStreaming": {"type": "boolean", "description": "As `whenBusy: interrupt`."},
                "webhook": {
                    "type": "object",
                    "properties": {"url": {"type": "string", "maxLength": URL_CHARS_MAX}},
                    "required": ["url"],
                    "additionalProperties": False,
                    "description": "Who is told of the run alone, if the tenant has a webhook `*`.",
                },
            },
            "anyOf": [{"required": ["message"]}, {"required": ["messages"]}],
        },
        {
            "type": "object",
            "description": "The decision of an approval.",
            "properties": {
                "type": {"const": "approval"},
                "approval": {
                    "type": "object",
                    "properties": {
                        "approvalId": {"type": "string", "maxLength": ID_CHARS_MAX},
                        "approved": {"type": "boolean"},
                        "reason": {
                            "type": "string",
                            "maxLength": REASON_CHARS_MAX,
                            "description": "Tool and agent see it.",
                        },
                        "input": {
                            "type": "object",
                            "maxProperties": OBJECT_KEYS_MAX,
                            "description": "With an approval: the arguments with which the call runs, if its "
                            "tool allows that they are changed.",
                        },
                    },
                    "required": ["approvalId", "approved"],
                },
            },
            "required": ["type", "approval"],
        },
        {
            "type": "object",
            "description": "The output of a tool that the client runs, or the error in its place.",
            "properties": {
                "type": {"const": "tool-output"},
                "toolCallId": {"type": "string", "maxLength": ID_CHARS_MAX},
                "output": {},
                "errorText": {"type": "string", "maxLength": REASON_CHARS_MAX},
            },
            "required": ["type", "toolCallId"],
        },
        {"type": "object", "description": "A user's UI message.", "required": ["parts"]},
    ]
}
_ITEMS = {
    "type": "array",
    "description": "Messages that are one turn, and approvals, which are decided before it.",
    "items": _ITEM,
    "minItems": 1,
    "maxItems": MESSAGES_MAX,
}
SCHEMA = {"anyOf": [*_ITEM["anyOf"], _ITEMS]}
"""The JSON Schema of what `parse_send_body` takes."""
