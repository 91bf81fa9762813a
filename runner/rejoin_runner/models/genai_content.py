"""Conversations in the form of OpenTelemetry's GenAI conventions, as JSON for the attributes of a span. Pure.

Used only if the operator asks for content in traces. An attribute has a bound: the newest messages that fit.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rejoin_protocol.events.chunks import FinishReason, ReasoningDelta, TextDelta, ToolInputAvailable
from rejoin_protocol.events.fold import MessageDict, is_tool, tool_name
from rejoin_runner.models.model import ModelChunk

CONTENT_BYTES_MAX = 65_536
"""The size of one attribute."""
FINISH_REASONS = {"tool-calls": "tool_call", "content-filter": "content_filter"}
"""The conventions' words where they are not ours."""


def convention_reason(reason: FinishReason) -> str:
    """The conventions' word for a finish reason."""
    return FINISH_REASONS.get(reason, reason)


def input_messages(messages: Sequence[MessageDict]) -> str:
    """`gen_ai.input.messages`: the newest of the messages that fit."""
    fitting: list[bytes] = []
    size = 2
    for one in reversed([part for message in messages for part in _split(message)]):
        body = msgspec.json.encode(one)
        size += len(body) + 1
        if size > CONTENT_BYTES_MAX:
            break
        fitting.append(body)
    return f"[{b','.join(reversed(fitting)).decode()}]"


def system_instructions(text: str) -> str:
    """`gen_ai.system_instructions`."""
    return clip_json([{"type": "text", "content": text}])


def clip_json(value: Any) -> str:
    """Any value as JSON text; of a large one how large it is."""
    body = msgspec.json.encode(value)
    if len(body) > CONTENT_BYTES_MAX:
        return f'"{len(body)} bytes are not shown"'
    return body.decode()


class OutputContent:
    """Collects an answer's chunks for `gen_ai.output.messages`."""

    def __init__(self) -> None:
        self._parts: list[dict[str, Any]] = []
        self._size = 0

    def add(self, chunk: ModelChunk) -> None:
        """A chunk of the answer. Beyond the bound nothing is kept."""
        match chunk:
            case TextDelta(delta=delta):
                self._add_text("text", delta)
            case ReasoningDelta(delta=delta):
                self._add_text("reasoning", delta)
            case ToolInputAvailable(tool_call_id=id, tool_name=name, input=input):
                self._size += len(msgspec.json.encode(input))
                if self._size <= CONTENT_BYTES_MAX:
                    self._parts.append({"type": "tool_call", "id": id, "name": name, "arguments": input})
            case _:
                pass

    def _add_text(self, kind: str, text: str) -> None:
        self._size += len(text)
        if self._size > CONTENT_BYTES_MAX:
            return
        if self._parts and self._parts[-1]["type"] == kind:
            self._parts[-1]["content"] += text
        else:
            self._parts.append({"type": kind, "content": text})

    def messages(self, reason: FinishReason) -> str:
        """The answer so far."""
        message = {"role": "assistant", "parts": self._parts, "finish_reason": convention_reason(reason)}
        return msgspec.json.encode([message]).decode()


def _split(message: MessageDict) -> Iterator[dict[str, Any]]:
    """A stored message: an assistant's with results of tools is several messages of the conventions."""
    parts: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for part in message["parts"]:
        if part["type"] in {"text", "reasoning"}:
            parts.append({"type": part["type"], "content": part["text"]})
        elif part["type"] == "file":
            parts.append({"type": "file", "mime_type": part.get("mediaType")})
        elif is_tool(part):
            call = part["toolCallId"]
            parts.append(
                {"type": "tool_call", "id": call, "name": tool_name(part), "arguments": part.get("input")}
            )
            if "output" in part or "errorText" in part:
                result = part.get("output", part.get("errorText"))
                results.append({"type": "tool_call_response", "id": call, "response": result})
    if parts:
        yield {"role": message["role"], "parts": parts}
    if results:
        yield {"role": "tool", "parts": results}
