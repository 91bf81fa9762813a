"""The published rules of OpenAI's chat completions for a request, and what other services make of them.

`find_violations` yields the text of each rule that a request breaks, in the provider's own words.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

type Json = Mapping[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool")
_ASSISTANT_FIELDS = frozenset({"role", "content", "name", "refusal", "audio", "tool_calls", "function_call"})
_DATA_URL = re.compile(r"data:[^;,]+;base64,[A-Za-z0-9+/]*=*")


@dataclass(frozen=True)
class ChatRules:
    """What a service takes. The defaults are OpenAI's: https://platform.openai.com/docs/api-reference/chat."""

    tool_name: re.Pattern[str] = re.compile(r"[a-zA-Z0-9_-]{1,64}")
    call_id: re.Pattern[str] = re.compile(r".{1,40}", re.DOTALL)
    tools_max: int = 128
    description_max: int = 1024
    """Characters of a tool's description."""
    user_parts: frozenset[str] = frozenset({"text", "image_url", "input_audio", "file"})
    text_roles: frozenset[str] = frozenset({"system", "developer", "assistant", "tool"})
    """Roles whose content parts are texts only."""
    remote_images: bool = True
    """Whether an image may be an address instead of data."""
    extra_fields: bool = True
    """Whether fields of an assistant message that the API does not have are ignored, not refused."""
    refused_fields: frozenset[str] = frozenset()
    """Fields of a request that OpenAI takes and this service does not."""
    user_after_tool: bool = True
    """Whether a user message may follow the result of a tool."""
    last_roles: frozenset[str] = frozenset(_ROLES)


def find_violations(request: Json, rules: ChatRules) -> Iterator[str]:
    """Every rule that the request breaks."""
    if not isinstance(request.get("model"), str) or not request["model"]:
        yield "you must provide a model parameter"
    for field in sorted(rules.refused_fields.intersection(request)):
        yield f"Extra inputs are not permitted: body.{field}"
    yield from _check_tools(request, rules)
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "[] is too short - 'messages'"
        return
    for index, message in enumerate(messages):
        yield from _check_message(index, message, rules)
    yield from _check_pairs(messages)
    yield from _check_order(messages, rules)


def _check_tools(request: Json, rules: ChatRules) -> Iterator[str]:
    if "tools" not in request:
        if "tool_choice" in request:
            yield "'tool_choice' is only allowed when 'tools' are specified."
        if "parallel_tool_calls" in request:
            yield "'parallel_tool_calls' is only allowed when 'tools' are specified."
        return
    tools = request["tools"]
    if not tools:
        yield "[] is too short - 'tools'"
    if len(tools) > rules.tools_max:
        yield f"Invalid 'tools': array too long. Expected an array with maximum length {rules.tools_max}."
    names = [tool["function"]["name"] for tool in tools]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"Invalid 'tools': the name '{name}' is used more than once."
    for index, tool in enumerate(tools):
        function = tool["function"]
        yield from _check_name(f"tools[{index}].function.name", function["name"], rules)
        if len(function.get("description") or "") > rules.description_max:
            yield f"Invalid 'tools[{index}].function.description': string too long."
        schema = function.get("parameters")
        if schema is not None and schema.get("type") != "object":
            yield f"Invalid schema for function '{function['name']}': schema must be of type 'object'."


def _check_name(where: str, name: object, rules: ChatRules) -> Iterator[str]:
    if not isinstance(name, str) or not rules.tool_name.fullmatch(name):
        yield f"Invalid '{where}': string does not match pattern. Expected '^{rules.tool_name.pattern}$'."


def _check_message(index: int, message: Json, rules: ChatRules) -> Iterator[str]:
    role, content = message.get("role"), message.get("content")
    where = f"messages[{index}]"
    if role not in _ROLES:
        yield f"Invalid value: '{role}'. Supported values are: {', '.join(_ROLES)}."
    if role == "assistant":
        yield from _check_calls(where, message, rules)
        if not rules.extra_fields:
            for name in message.keys() - _ASSISTANT_FIELDS:
                yield f"'messages.{index}' : property '{name}' is unsupported"
    if role == "tool" and not isinstance(message.get("tool_call_id"), str):
        yield f"Missing parameter '{where}.tool_call_id'."
    match content:
        case str():
            pass
        case None if role == "assistant" and message.get("tool_calls"):
            pass
        case None:
            yield f"Invalid value for 'content': expected a string, got null. '{where}'"
        case []:
            yield f"Invalid '{where}.content': empty array. Expected an array with minimum length 1."
        case list():
            for part in content:
                yield from _check_part(where, str(role), part, rules)
        case _:
            yield f"Invalid type for '{where}.content'."


def _check_part(where: str, role: str, part: Json, rules: ChatRules) -> Iterator[str]:
    kind = part.get("type")
    allowed = frozenset({"text", "refusal"}) if role in rules.text_roles else rules.user_parts
    if kind not in allowed:
        yield f"Invalid value: '{kind}' in '{where}.content'. Supported values are: {sorted(allowed)}."
        return
    match part:
        case {"type": "text"} if not isinstance(part.get("text"), str):
            yield f"Missing required parameter: '{where}.content[].text'."
        case {"type": "image_url"}:
            url = part["image_url"]["url"]
            if url.startswith("data:") and not _DATA_URL.fullmatch(url):
                yield f"Invalid base64 image_url in '{where}'."
            elif not url.startswith(("data:", "http://", "https://")):
                yield f"Invalid image url in '{where}'."
            elif not url.startswith("data:") and not rules.remote_images:
                yield "invalid image input"
        case {"type": "input_audio"} if part["input_audio"].get("format") not in ("wav", "mp3"):
            yield f"Invalid value: '{where}.content[].input_audio.format'."


def _check_calls(where: str, message: Json, rules: ChatRules) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not calls:
        yield f"[] is too short - '{where}.tool_calls'"
    for index, call in enumerate(calls):
        here = f"{where}.tool_calls[{index}]"
        if call.get("type") != "function":
            yield f"Missing required parameter: '{here}.type'."
        if not isinstance(call.get("id"), str) or not rules.call_id.fullmatch(call["id"]):
            yield f"Invalid '{here}.id': expected '{rules.call_id.pattern}'."
        yield from _check_name(f"{here}.function.name", call["function"].get("name"), rules)
        if not _is_json_object(call["function"].get("arguments")):
            yield f"Invalid '{here}.function.arguments': expected a JSON object as text."


def _is_json_object(text: object) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text, parse_constant=_refuse), dict)
    except ValueError:
        return False


def _refuse(name: str) -> None:
    raise ValueError(name)


def _check_pairs(messages: Sequence[Json]) -> Iterator[str]:
    """Every call is answered directly after, once; no result without a call."""
    open_calls: list[str] = []
    for message in messages:
        if message.get("role") == "tool":
            if (call_id := message.get("tool_call_id")) in open_calls:
                open_calls.remove(str(call_id))
            else:
                yield "messages with role 'tool' must be a response to a preceding message with 'tool_calls'."
            continue
        if open_calls:
            yield _unanswered(open_calls)
        open_calls = [str(call.get("id")) for call in message.get("tool_calls") or ()]
        if len(set(open_calls)) < len(open_calls):
            yield f"Duplicate value for 'tool_call_id' of {open_calls} in message"
    if open_calls:
        yield _unanswered(open_calls)


def _unanswered(call_ids: Sequence[str]) -> str:
    return (
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
        f" 'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(call_ids)}"
    )


def _check_order(messages: Sequence[Json], rules: ChatRules) -> Iterator[str]:
    roles = [message.get("role") for message in messages]
    if not rules.user_after_tool and ("tool", "user") in list(pairwise(roles)):
        yield "Unexpected role 'user' after role 'tool'"
    if roles[-1] not in rules.last_roles:
        yield f"Expected last role {sorted(rules.last_roles)} for serving but got {roles[-1]}"
