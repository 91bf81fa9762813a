"""The body of an AG-UI run, `RunAgentInput`, and what is taken from it. Pure.

The client repeats its whole thread. Of a thread that exists only what is new counts: the user's message at
the end, the outputs of the client's tools behind the last answer, and the answers in `resume`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rejoin_gateway.api.ag_ui.thread_messages import parse_call_id
from rejoin_gateway.core.answered_calls import AnsweredCall
from rejoin_gateway.core.message_input import ClientMessage, parse_reason
from rejoin_gateway.core.tool_outputs import ToolOutput
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import ApprovalId, CallId, MessageId
from rejoin_protocol.limits import (
    CONTEXT_BYTES_MAX,
    MESSAGES_MAX,
    REQUEST_TOOLS_MAX,
    CheckedId,
    FreeObject,
    Id,
    Name,
    RepeatedPart,
    RepeatedText,
)
from rejoin_protocol.request_tools import RequestTool, check_bytes, find_reserved, parse_tool

RESUME_MAX = 128
"""Interrupts that one request answers. A model calls fewer tools in one step."""
CONTEXT_ENTRIES_MAX = 100
ABANDONED = "The user has not answered."
_MEDIA = ("image", "audio", "video", "document", "binary")


class ContextEntry(msgspec.Struct, frozen=True):
    """What the application tells the agent beside the messages: the model reads it with the newest one."""

    description: RepeatedText
    value: RepeatedText


class ResumeEntry(msgspec.Struct, frozen=True, rename="camel"):
    """The answer to an interrupt. `payload`: `{approved, reason?, editedArgs?}`, or the bare `approved`.
    `cancelled` denies the call.
    """

    interrupt_id: Id
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class RunAgentInput(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`runId`: the same id again is the same run. `tools`: client tools, for agents that take some. `context`
    is text for the model. `forwardedProps.context`: the request context, for agents that declare one.
    `state` and other fields are accepted without effect.
    """

    thread_id: CheckedId
    run_id: Annotated[str, Meta(max_length=255, pattern="^[!-~]+$")]
    messages: Annotated[list[RepeatedPart], Meta(max_length=MESSAGES_MAX)]
    tools: Annotated[list[FreeObject], Meta(max_length=REQUEST_TOOLS_MAX)] | None = None
    context: Annotated[list[ContextEntry], Meta(max_length=CONTEXT_ENTRIES_MAX)] | None = None
    forwarded_props: Any = None
    resume: Annotated[list[ResumeEntry], Meta(max_length=RESUME_MAX)] | None = None
    protocol_version: Name | None = None

    @property
    def is_old(self) -> bool:
        """Whether the client is from before 1.0, which has no version in its requests."""
        return self.protocol_version is None

    @property
    def request_context(self) -> Any:
        """The request context; None if the body has none."""
        return self.forwarded_props.get("context") if isinstance(self.forwarded_props, dict) else None


class ReturnedOutput(msgspec.Struct, frozen=True):
    """A message with the result of a tool: of the client's tools, or of the agent's, which has no effect."""

    answer: MessageId
    output: ToolOutput


def client_message(message: dict[str, Any]) -> ClientMessage:
    """A message of a thread as the other APIs take it; what is no message of theirs has no parts."""
    id, role, content = message.get("id"), message.get("role"), message.get("content")
    parts: list[dict[str, Any]] = []
    if isinstance(content, str) and content:
        parts = [{"type": "text", "text": content}]
    elif isinstance(content, list):
        parts = [_to_part(part) if isinstance(part, dict) else {"type": "odd"} for part in content]
    told = id if isinstance(id, str) else ""
    match role:
        case "user" | "assistant":
            return ClientMessage(told, role, parts)
        case _:
            return ClientMessage(told, "system", [])


def content_places(messages: Sequence[dict[str, Any]], number: int, parts: int) -> list[str]:
    """The JSON pointers of the parts of message `number`. `parts`: how many `client_message` has made."""
    place = f"/messages/{number}/content"
    is_list = isinstance(messages[number].get("content"), list)
    return [f"{place}/{part}" if is_list else place for part in range(parts)]


def _to_part(part: dict[str, Any]) -> dict[str, Any]:
    """A part of a user's message. One that cannot be taken stays as it is, and is refused later."""
    kind, source = part.get("type"), part.get("source")
    if kind not in _MEDIA:
        return part
    found = source if isinstance(source, dict) else part  # the part itself: `binary`, before AG-UI 1.0
    media_type = found.get("mimeType")
    match found:
        case {"type": "data", "value": str(data)} | {"type": "binary", "data": str(data)}:
            url = f"data:{media_type};base64,{data}"
        case {"type": "url", "value": str(url)} | {"type": "binary", "url": str(url)}:
            pass
        case _:
            return part
    if not isinstance(media_type, str):
        return {"type": "image", "image": url} if kind == "image" else part
    return {"type": "file", "url": url, "mediaType": media_type}


def returned_outputs(messages: Sequence[dict[str, Any]]) -> list[ReturnedOutput]:
    """The results of tools in the last answer of the client's thread, the last one of each call."""
    found: dict[tuple[MessageId, CallId], ReturnedOutput] = {}
    is_in_answer = False
    for message in reversed(messages):
        role = message.get("role")
        if role == "user" and is_in_answer:
            break
        is_in_answer = is_in_answer or role in ("assistant", "tool")
        if role == "tool" and (one := _parse_output(message)) is not None:
            found.setdefault((one.answer, one.output.call), one)
    return [*reversed(found.values())]


def answers_with_open_calls(messages: Sequence[dict[str, Any]]) -> set[MessageId]:
    """The answers of which the client's copy has a tool call without a result."""
    calls: set[str] = set()
    results: set[Any] = set()
    for message in messages:
        listed, result = message.get("toolCalls"), message.get("toolCallId")
        for call in listed if isinstance(listed, list) else ():
            if isinstance(call, dict) and isinstance(call.get("id"), str):
                calls.add(call["id"])
        if message.get("role") == "tool" and isinstance(result, str):
            results.add(result)
    named = map(parse_call_id, calls - results)
    return {one[0] for one in named if one is not None}


def _parse_output(message: dict[str, Any]) -> ReturnedOutput | None:
    call, content, error = message.get("toolCallId"), message.get("content"), message.get("error")
    named = parse_call_id(call) if isinstance(call, str) else None
    if named is None:
        return None
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)
    if isinstance(error, str) and error:
        return ReturnedOutput(named[0], ToolOutput(named[1], error=error))
    return ReturnedOutput(named[0], ToolOutput(named[1], str(content or ""), is_text=True))


def to_answers(resume: Sequence[ResumeEntry]) -> list[AnsweredCall]:
    """The answers to interrupts. Raises `Invalid` with their place."""
    return [_to_answer(entry, f"/resume/{number}") for number, entry in enumerate(resume)]


def _to_answer(entry: ResumeEntry, place: str) -> AnsweredCall:
    id = ApprovalId(entry.interrupt_id)
    if entry.status == "cancelled":
        return AnsweredCall(id, None, approved=False, reason=ABANDONED)
    match entry.payload:
        case bool(approved):
            return AnsweredCall(id, None, approved)
        case {"approved": bool(approved), **rest}:
            reason = parse_reason(rest.get("reason"), f"{place}/payload")
            edited = rest.get("editedArgs")
            return AnsweredCall(id, None, approved, reason, edited, f"{place}/payload/editedArgs")
        case _:
            raise Invalid("the payload is {approved: true or false}, or true or false", f"{place}/payload")


def parse_tools(tools: Sequence[dict[str, Any]], reserved: Sequence[str]) -> list[RequestTool]:
    """The client tools of a request, without those that the agent has itself: a client lists the tools that
    the agent has declared for it too. Raises `Invalid`.
    """
    check_bytes(tools, "/tools")
    parsed = [parse_tool(tool.get("name"), tool, f"/tools/{number}") for number, tool in enumerate(tools)]
    return [tool for tool in parsed if find_reserved([tool], reserved) is None]


def check_context(context: Sequence[ContextEntry]) -> list[dict[str, str]]:
    """The context as it is stored with the user's message. Raises `Invalid` if it is too large."""
    entries = [{"description": one.description, "value": one.value} for one in context]
    size = len(msgspec.json.encode(entries))
    if size > CONTEXT_BYTES_MAX:
        raise Invalid(f"the context has at most {CONTEXT_BYTES_MAX} bytes as JSON, not {size}", "/context")
    return entries
