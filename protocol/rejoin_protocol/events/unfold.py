"""Unfolds a stored message into the fewest chunks that fold into it again: `fold(unfold(message)) ==
message`.

A run whose log has expired starts a new log with these chunks, so that it still replays the whole answer.
Open parts stay open: streaming text (under `text_id` of its index), streaming reasoning (under its own id)
and streaming tool inputs.

Not supported are messages that no sensible order of chunks makes, and keys that no chunk sets:
- a call whose state went back: an approval after the output, a second input after the output, a `preliminary`
  mark on anything but an output;
- one call id in two kinds (static and dynamic) within one step, where the second has an approval or an
  output; one approval id in two calls;
- a dynamic call whose open input crossed into a new step: there the client loses `rawInput`;
- text and reasoning without a `state`, files with a name, `null` for metadata, keys that no chunk has.
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import (
    DATA_PREFIX,
    Chunk,
    Citation,
    Custom,
    Data,
    File,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningFile,
    ReasoningStart,
    SourceDocument,
    SourceUrl,
    Start,
    StartStep,
    SteeringMessage,
    TextDelta,
    TextEnd,
    TextStart,
    ToolApprovalRequest,
    ToolApprovalResponse,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
    ToolOutputAvailable,
    ToolOutputDenied,
    ToolOutputError,
)
from rejoin_protocol.events.fold import DYNAMIC_TOOL, STEP_START, MessageDict, Part, is_tool, tool_name

_PART_CHUNKS = File | ReasoningFile | SourceUrl | SourceDocument | Custom | SteeringMessage


def text_id(index: int) -> str:
    """The chunk id of the text part at this index of the message."""
    return f"text-{index}"


def unfold(message: MessageDict) -> list[Chunk]:
    """The chunks of `message`, without a `finish`: the run may continue.

    Raises `Invalid` for a part that no chunk makes.
    """
    chunks: list[Chunk] = [Start(message["id"], message.get("metadata", UNSET))]
    for index, part in enumerate(message["parts"]):
        chunks.extend(_part(part, index))
    return chunks


def _part(part: Part, index: int) -> Iterator[Chunk]:
    kind: str = part["type"]
    if kind == STEP_START:
        yield StartStep()
    elif kind == "text":
        yield from _text(part, text_id(index))
    elif kind == "reasoning":
        yield from _reasoning(part, part.get("id", f"reasoning-{index}"))
    elif is_tool(part):
        yield from _call(part)
    else:
        yield _convert_part(part)


def _text(part: Part, part_id: str) -> Iterator[Chunk]:
    yield TextStart(part_id, part.get("providerMetadata", UNSET))
    if part["text"]:
        yield TextDelta(part_id, part["text"])
    if part.get("state") != "streaming":
        citations = part.get("citations")
        yield TextEnd(part_id, citations=UNSET if citations is None else _convert(citations, list[Citation]))


def _reasoning(part: Part, part_id: str) -> Iterator[Chunk]:
    yield ReasoningStart(part_id, part.get("providerMetadata", UNSET))
    if part["text"]:
        yield ReasoningDelta(part_id, part["text"])
    if part.get("state") != "streaming":
        yield ReasoningEnd(part_id)


def _convert_part(part: Part) -> Chunk:
    """The chunk of a part that has the same fields as its chunk."""
    chunk: Chunk = _convert(part, Data if part["type"].startswith(DATA_PREFIX) else _PART_CHUNKS)
    return chunk


def _convert(value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise Invalid(f"no chunk makes this part: {error}") from error


def _call(part: Part) -> Iterator[Chunk]:
    yield from _input(part)
    if (approval := part.get("approval")) is not None:
        yield from _approval(part["toolCallId"], approval)
        if part["state"] in {"input-streaming", "input-available"}:
            yield from _input(part)  # the input was sent again after the approval request
    yield from _output(part)


def _input(part: Part) -> Iterator[Chunk]:
    call_id = part["toolCallId"]
    common: dict[str, Any] = {
        "provider_executed": part.get("providerExecuted", UNSET),
        "provider_metadata": part.get("callProviderMetadata", UNSET),
        "tool_metadata": part.get("toolMetadata", UNSET),
        "dynamic": True if part["type"] == DYNAMIC_TOOL else UNSET,
        "title": part.get("title", UNSET),
    }
    raw = part.get("rawInput")
    if raw is None and "input" in part:
        yield ToolInputAvailable(call_id, tool_name(part), part["input"], **common)
        return
    # A failed call has no `inputEncoding`. Its input equals its raw input only if that was text.
    guess = "text" if raw is not None and part.get("input") == raw else UNSET
    encoding = part.get("inputEncoding", guess)
    yield ToolInputStart(call_id, tool_name(part), input_encoding=encoding, **common)
    if raw is not None:
        yield ToolInputDelta(call_id, raw)


def _approval(call_id: str, approval: dict[str, Any]) -> Iterator[Chunk]:
    yield ToolApprovalRequest(
        approval["id"],
        call_id,
        approval_descriptor=approval.get("descriptor", UNSET),
        input_schema_input=approval.get("inputSchemaInput", UNSET),
        reason=approval.get("requestReason", UNSET),
        is_automatic=approval.get("isAutomatic", UNSET),
        signature=approval.get("signature", UNSET),
    )
    if "approved" in approval:
        yield ToolApprovalResponse(approval["id"], approval["approved"], approval.get("reason", UNSET))


def _output(part: Part) -> Iterator[Chunk]:
    call_id = part["toolCallId"]
    metadata = part.get("resultProviderMetadata", UNSET)
    match part["state"]:
        case "output-available":
            preliminary = part.get("preliminary", UNSET)
            yield ToolOutputAvailable(
                call_id, part["output"], provider_metadata=metadata, preliminary=preliminary
            )
        case "output-error":
            yield ToolOutputError(call_id, part["errorText"], provider_metadata=metadata)
        case "output-denied":
            yield ToolOutputDenied(call_id)
