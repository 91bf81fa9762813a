"""The published rules of Gemini's `generateContent` for a request.

https://ai.google.dev/api/generate-content and https://ai.google.dev/gemini-api/docs/function-calling.
`find_violations` yields the text of each rule that a request breaks, in the provider's own words.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

type Json = Mapping[str, Any]

_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}")
_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse")
_UNSUPPORTED = ("image/gif", "application/octet-stream")


def find_violations(request: Json) -> Iterator[str]:
    """Every rule that the request breaks."""
    for tool in request.get("tools") or ():
        for declared in tool.get("functionDeclarations") or ():
            yield from _check_name(declared.get("name"))
    contents = request.get("contents")
    if not contents:
        yield "GenerateContentRequest.contents: contents is not specified"
        return
    for index, content in enumerate(contents):
        yield from _check_content(f"contents[{index}]", content)
    yield from _check_turns(contents)


def _check_name(name: object) -> Iterator[str]:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield f"Invalid function name {name!r}. Must start with a letter or an underscore."


def _check_content(where: str, content: Json) -> Iterator[str]:
    if content.get("role") not in ("user", "model"):
        yield "Please use a valid role: user, model."
    parts = content.get("parts")
    if not parts:
        yield f"Unable to submit request because it must include at least one parts field: {where}"
        return
    for number, part in enumerate(parts):
        if not any(name in part for name in _DATA):
            yield f"{where}.parts[{number}].data: required oneof field 'data' must have one initialized field"
        if "text" in part and not part["text"] and not part.get("thoughtSignature"):
            yield f"Unable to submit request because it has an empty text parameter: {where}"
        yield from _check_data(part)


def _check_data(part: Json) -> Iterator[str]:
    match part:
        case {"functionCall": call}:
            yield from _check_name(call.get("name"))
            if not isinstance(call.get("args", {}), dict):
                yield "functionCall.args: Proto field is not repeating, cannot start list."
        case {"functionResponse": answered}:
            yield from _check_name(answered.get("name"))
            if not isinstance(answered.get("response"), dict):
                yield "functionResponse.response: Proto field is not repeating, cannot start list."
        case {"inlineData": {"mimeType": kind}} if kind in _UNSUPPORTED:
            yield f"Unsupported MIME type of the file: {kind}"


def _check_turns(contents: Sequence[Json]) -> Iterator[str]:
    before: Json = {"role": "model", "parts": []}
    for content in contents:
        if _count(content, "functionCall") and before.get("role") != "user":
            yield (
                "Please ensure that function call turn comes immediately after a user turn or after a "
                "function response turn."
            )
        before = content
    for content, following in pairwise([*contents, {"parts": []}]):
        if _count(content, "functionCall") != _count(following, "functionResponse"):
            yield (
                "Please ensure that the number of function response parts is equal to the number of function "
                "call parts of the function call turn."
            )


def _count(content: Json, name: str) -> int:
    return sum(name in part for part in content.get("parts") or ())
