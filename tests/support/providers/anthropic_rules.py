"""The published rules of Anthropic's Messages for a request.

https://docs.anthropic.com/en/api/messages and https://docs.anthropic.com/en/docs/agents-and-tools/tool-use.
`find_violations` yields the text of each rule that a request breaks, in the provider's own words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

type Json = Mapping[str, Any]

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_BLOCKS = {
    "user": frozenset({"text", "image", "document", "tool_result", "search_result"}),
    "assistant": frozenset({"text", "thinking", "redacted_thinking", "tool_use"}),
}
_RESULT_BLOCKS = frozenset({"text", "image", "document", "search_result"})


def find_violations(request: Json) -> Iterator[str]:
    """Every rule that the request breaks."""
    if not isinstance(request.get("max_tokens"), int):
        yield "max_tokens: Field required"
    yield from _check_system(request.get("system"))
    yield from _check_tools(request.get("tools") or ())
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "messages: at least one message is required"
        return
    if messages[0].get("role") != "user":
        yield 'messages: first message must use the "user" role'
    for index, message in enumerate(messages):
        yield from _check_message(f"messages.{index}", message, is_last=index == len(messages) - 1)
    yield from _check_pairs(messages)


def _check_system(system: object) -> Iterator[str]:
    blocks: list[Json] = [{"type": "text", "text": system}] if isinstance(system, str) else []
    if isinstance(system, list):
        blocks = system
    for block in blocks:
        yield from _check_text("system", block.get("text"))


def _check_text(where: str, text: object) -> Iterator[str]:
    if not isinstance(text, str):
        yield f"{where}: Input should be a valid string"
    elif not text:
        yield f"{where}: text content blocks must be non-empty"
    elif not text.strip():
        yield f"{where}: text content blocks must contain non-whitespace text"


def _check_tools(tools: Sequence[Json]) -> Iterator[str]:
    names = [tool.get("name") for tool in tools]
    if len(set(names)) < len(names):
        yield "tools: Tool names must be unique."
    for index, tool in enumerate(tools):
        if not _TOOL_NAME.fullmatch(str(tool.get("name"))):
            yield f"tools.{index}.custom.name: String should match pattern '^{_TOOL_NAME.pattern}$'"
        if "type" not in tool and (tool.get("input_schema") or {}).get("type") != "object":
            yield f"tools.{index}.custom.input_schema.type: Input should be 'object'"


def _blocks(message: Json) -> list[Json]:
    content = message.get("content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content or ())


def _check_message(where: str, message: Json, *, is_last: bool) -> Iterator[str]:
    role = message.get("role")
    if role not in _BLOCKS:
        yield f'messages: Unexpected role "{role}". The Messages API accepts a top-level `system` parameter.'
        return
    blocks = _blocks(message)
    if not blocks and not (is_last and role == "assistant"):
        yield f"{where}: all messages must have non-empty content except for the final assistant message"
    for index, block in enumerate(blocks):
        here = f"{where}.content.{index}"
        if block.get("type") not in _BLOCKS[role]:
            yield f"{here}: Input tag '{block.get('type')}' is not allowed for the role {role}"
        yield from _check_block(here, block)
    kinds = [block.get("type") for block in blocks]
    first_other = next((index for index, kind in enumerate(kinds) if kind != "tool_result"), len(kinds))
    if "tool_result" in kinds[first_other:]:
        yield f"{where}: `tool_result` blocks must come first in the content"
    if role == "assistant" and kinds and kinds[-1] in ("thinking", "redacted_thinking"):
        yield f"{where}: The final block in an assistant message cannot be `thinking`."
    if is_last and kinds and role == "assistant" and kinds[-1] == "text" and _ends_with_space(blocks[-1]):
        yield "messages: final assistant content cannot end with trailing whitespace"


def _ends_with_space(block: Json) -> bool:
    text = str(block.get("text"))
    return text != text.rstrip()


def _check_block(where: str, block: Json) -> Iterator[str]:
    match block:
        case {"type": "text"}:
            yield from _check_text(where, block.get("text"))
        case {"type": "tool_use"}:
            if not _TOOL_NAME.fullmatch(str(block.get("name"))):
                yield f"{where}.tool_use.name: String should match pattern '^{_TOOL_NAME.pattern}$'"
            if not _CALL_ID.fullmatch(str(block.get("id"))):
                yield f"{where}.tool_use.id: String should match pattern '^{_CALL_ID.pattern}$'"
            if not isinstance(block.get("input"), dict):
                yield f"{where}.tool_use.input: Input should be a valid dictionary"
        case {"type": "tool_result", "content": list() as inner}:
            for part in inner:
                if part.get("type") not in _RESULT_BLOCKS:
                    yield f"{where}.tool_result.content: Input tag '{part.get('type')}' is not allowed"
                yield from _check_block(f"{where}.tool_result.content", part)
        case {"type": "image" | "document" as kind, "source": source}:
            allowed = _IMAGES if kind == "image" else ("application/pdf",)
            if source.get("type") == "base64" and source.get("media_type") not in allowed:
                yield f"{where}.{kind}.source.base64.media_type: Input should be one of {allowed}"
        case {"type": "thinking"} if not isinstance(block.get("signature"), str):
            yield f"{where}.thinking.signature: Field required"


def _check_pairs(messages: Sequence[Json]) -> Iterator[str]:
    """Every call is answered in the next message, once; no result without a call; ids are unique."""
    seen: set[str] = set()
    open_calls: list[str] = []
    for index, (role, blocks) in enumerate(_turns(messages)):
        results = [str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"]
        if strangers := [call_id for call_id in results if call_id not in open_calls]:
            yield f"messages.{index}: unexpected `tool_use_id` found in `tool_result` blocks: {strangers}"
        if len(set(results)) < len(results):
            yield f"messages.{index}: each tool_use must have a single result"
        if missing := [call_id for call_id in open_calls if call_id not in results]:
            yield f"messages.{index}: `tool_use` ids were found without `tool_result` blocks: {missing}"
        calls = [str(block.get("id")) for block in blocks if block.get("type") == "tool_use"]
        if role == "assistant" and (len(set(calls)) < len(calls) or seen & set(calls)):
            yield "messages: `tool_use` ids must be unique"
        seen |= set(calls)
        open_calls = calls
    if open_calls:
        yield f"messages: `tool_use` ids were found without `tool_result` blocks: {open_calls}"


def _turns(messages: Sequence[Json]) -> list[tuple[str, list[Json]]]:
    """The messages, with those of one role in sequence joined, as the API does."""
    turns: list[tuple[str, list[Json]]] = []
    for message in messages:
        role = str(message.get("role"))
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(_blocks(message))
        else:
            turns.append((role, _blocks(message)))
    return turns
