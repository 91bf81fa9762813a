"""The published rules of OpenAI's Responses for a request.

https://platform.openai.com/docs/api-reference/responses. `find_violations` yields the text of each rule that
a request breaks, in the provider's own words.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

type Json = Mapping[str, Any]

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CALL_ID = re.compile(r".{1,64}", re.DOTALL)
_TOOLS_MAX = 128
_ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
_PARTS = {
    "user": frozenset({"input_text", "input_image", "input_file"}),
    "system": frozenset({"input_text"}),
    "developer": frozenset({"input_text"}),
    "assistant": frozenset({"output_text", "refusal"}),
}
_OUTPUT_PARTS = frozenset({"input_text", "input_image", "input_file"})
_ITEMS = frozenset({*_ID_PREFIXES, "function_call_output", "item_reference", "image_generation_call"})


def find_violations(request: Json) -> Iterator[str]:
    """Every rule that the request breaks."""
    yield from _check_tools(request)
    items = request.get("input")
    if isinstance(items, str):
        return
    if not isinstance(items, list) or not items:
        yield "Missing required parameter: 'input'."
        return
    for index, item in enumerate(items):
        yield from _check_item(f"input[{index}]", item)
    yield from _check_pairs(items)
    yield from _check_reasoning(items)


def _check_tools(request: Json) -> Iterator[str]:
    tools = [tool for tool in request.get("tools") or () if tool.get("type") == "function"]
    if len(tools) > _TOOLS_MAX:
        yield f"Invalid 'tools': array too long. Expected an array with maximum length {_TOOLS_MAX}."
    names = [tool.get("name") for tool in tools]
    if len(set(names)) < len(names):
        yield "Invalid 'tools': names must be unique."
    for index, tool in enumerate(tools):
        if not _NAME.fullmatch(str(tool.get("name"))):
            yield f"Invalid 'tools[{index}].name': string does not match pattern '^{_NAME.pattern}$'."
        if (tool.get("parameters") or {"type": "object"}).get("type") != "object":
            yield f"Invalid schema for function '{tool.get('name')}': schema must be of type 'object'."


def _check_item(where: str, item: Json) -> Iterator[str]:
    kind = item.get("type", "message")
    if kind not in _ITEMS:
        yield f"Invalid value: '{kind}' in '{where}.type'."
    prefix = _ID_PREFIXES.get(kind)
    if prefix and item.get("id") and not str(item["id"]).startswith(prefix):
        yield f"Invalid '{where}.id': '{item['id']}'. Expected an ID that begins with '{prefix}'."
    match kind:
        case "message":
            yield from _check_message(where, item)
        case "function_call":
            yield from _check_call(where, item)
        case "function_call_output":
            output = item.get("output")
            for part in output if isinstance(output, list) else ():
                if part.get("type") not in _OUTPUT_PARTS:
                    yield f"Invalid value: '{part.get('type')}' in '{where}.output'."
            if not isinstance(output, str | list):
                yield f"Missing required parameter: '{where}.output'."


def _check_message(where: str, item: Json) -> Iterator[str]:
    role, content = item.get("role"), item.get("content")
    if role not in _PARTS:
        yield f"Invalid value: '{role}' in '{where}.role'."
        return
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        yield f"Invalid type for '{where}.content'."
        return
    for part in content:
        if part.get("type") not in _PARTS[role]:
            allowed = sorted(_PARTS[role])
            yield f"Invalid value: '{part.get('type')}' in '{where}.content'. Supported: {allowed}."


def _check_call(where: str, item: Json) -> Iterator[str]:
    if not _NAME.fullmatch(str(item.get("name"))):
        yield f"Invalid '{where}.name': string does not match pattern '^{_NAME.pattern}$'."
    if not _CALL_ID.fullmatch(str(item.get("call_id"))):
        yield f"Invalid '{where}.call_id': string too long. Expected a string with maximum length 64."
    try:
        arguments = json.loads(item.get("arguments") or "")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        yield f"Invalid '{where}.arguments': expected a JSON object as text."


def _check_pairs(items: Sequence[Json]) -> Iterator[str]:
    """Every call is answered before the next message, once; no result without a call."""
    open_calls: list[str] = []
    for item in items:
        match item.get("type", "message"):
            case "function_call":
                if item["call_id"] in open_calls:
                    yield f"Duplicate call_id {item['call_id']}."
                open_calls.append(item["call_id"])
            case "function_call_output":
                if item["call_id"] in open_calls:
                    open_calls.remove(item["call_id"])
                else:
                    yield f"No tool call found for function call output with call_id {item['call_id']}."
            case "message" if item.get("role") != "assistant" and open_calls:
                yield f"No tool output found for function call {', '.join(open_calls)}."
                open_calls.clear()
    if open_calls:
        yield f"No tool output found for function call {', '.join(open_calls)}."


def _check_reasoning(items: Sequence[Json]) -> Iterator[str]:
    """Reasoning is before the item that follows from it."""
    for item, following in zip(items, [*items[1:], {}], strict=True):
        if item.get("type") != "reasoning":
            continue
        kind = following.get("type", "message" if following else None)
        led_to = kind in ("reasoning", "function_call", "image_generation_call")
        if not led_to and not (kind == "message" and following.get("role") == "assistant"):
            yield f"Item '{item.get('id')}' of type 'reasoning' was provided without its following item."
