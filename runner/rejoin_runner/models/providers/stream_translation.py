"""Translates pydantic-ai's stream of a provider's answer to chunks.

It translates neither requests nor failures. A part of the library is identified by its index.
"""

import base64
from collections import defaultdict
from collections.abc import Iterator
from itertools import count
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import UNSET
from pydantic_ai.messages import (
    FilePart,
    ModelResponse,
    ModelResponsePart,
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    WebCitationSource,
)
from pydantic_ai.usage import RequestUsage

from rejoin_protocol.events.chunks import (
    File,
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    SourceDocument,
    SourceUrl,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
)
from rejoin_protocol.events.delta_text import DeltaText
from rejoin_protocol.json_input import well_formed
from rejoin_runner.models.model import Done, ModelChunk, Usage
from rejoin_runner.models.providers.arguments import parse_arguments
from rejoin_runner.models.providers.model_origin import ModelOrigin

_REASONS: MappingProxyType[str, FinishReason] = MappingProxyType(
    {"stop": "stop", "length": "length", "content_filter": "content-filter", "tool_call": "tool-calls"}
)


class StreamTranslator:
    """Translates one answer: call `translate` with every event, then `finish` with the complete response."""

    def __init__(self, origin: ModelOrigin, earlier_calls: set[str], step: int) -> None:
        self._origin = origin
        self._call_ids = earlier_calls
        self._step = step
        self._serial = count()
        self._open_parts: dict[int, str] = {}
        self._unsigned_reasoning: dict[int, ThinkingPart] = {}
        self._calls: dict[int, str] = {}
        self._texts: defaultdict[int, DeltaText] = defaultdict(DeltaText)
        self._files: set[int] = set()
        self._sources: set[tuple[str | None, ...]] = set()

    def translate(self, event: ModelResponseStreamEvent) -> Iterator[ModelChunk]:
        """The chunks of one event."""
        match event:
            case PartDeltaEvent(index=index, delta=TextPartDelta(content_delta=text)):
                yield from self._add_text(index, text)
            case PartDeltaEvent(index=index, delta=ThinkingPartDelta() as delta) if (
                index in self._unsigned_reasoning
            ):
                self._unsigned_reasoning[index] = delta.apply(self._unsigned_reasoning[index])
            case PartDeltaEvent(index=index, delta=ThinkingPartDelta(content_delta=text)):
                yield from self._add_reasoning(index, text)
            case PartDeltaEvent(index=index, delta=ToolCallPartDelta(args_delta=args)):
                yield from self._add_arguments(index, args)
            case PartStartEvent(index=index, part=part):
                yield from self._start_part(index, part)
            case PartEndEvent(index=index, part=ThinkingPart(id=str()) as part) if index in self._open_parts:
                self._unsigned_reasoning[index] = part
            case PartEndEvent(index=index, part=part):
                yield from self._close_part(index, part)

    def finish(self, response: ModelResponse) -> Iterator[ModelChunk | Done]:
        """The remaining chunks: open parts, the complete tool calls, and the `Done`.

        Tool calls come last because their arguments may arrive interleaved.
        """
        yield from self._close_reasoning_item()
        for index in tuple(self._open_parts):
            yield from self._close_part(index, response.parts[index])
        if refusal := (response.provider_details or {}).get("refusal"):
            refusal_id = f"text-{next(self._serial)}"
            yield TextStart(refusal_id)
            yield TextDelta(refusal_id, well_formed(str(refusal)))
            yield TextEnd(refusal_id)
        for index, call_id in self._calls.items():
            call = response.parts[index]
            if rest := self._texts[index].end():
                yield ToolInputDelta(call_id, rest)
            if isinstance(call, ToolCallPart):
                yield ToolInputAvailable(
                    call_id,
                    call.tool_name,
                    parse_arguments(call.args),
                    provider_metadata=self._origin.metadata(call),
                )
        reason = _REASONS.get(response.finish_reason or "", "other")
        if self._calls and reason == "stop":  # some servers say "stop" after a tool call
            reason = "tool-calls"
        yield Done(reason, _usage(response.usage))

    def _start_part(self, index: int, part: ModelResponsePart) -> Iterator[ModelChunk]:
        if not (
            isinstance(part, ThinkingPart)
            and part.id in {unsigned.id for unsigned in self._unsigned_reasoning.values()}
        ):
            yield from self._close_reasoning_item()
        match part:
            case TextPart(content=text):
                yield from self._add_text(index, text)
            case ThinkingPart(content=text):
                yield from self._add_reasoning(index, text)
            case ToolCallPart() as call:
                yield self._start_call(index, call)
                yield from self._add_arguments(index, call.args)
            case FilePart(content=content) as part if index not in self._files:
                self._files.add(index)
                body = base64.b64encode(content.data).decode()
                url = f"data:{content.media_type};base64,{body}"
                yield File(url, content.media_type, self._origin.metadata(part))
            case _:
                pass

    def _add_text(self, index: int, text: str) -> Iterator[ModelChunk]:
        if not text:
            return
        if index not in self._open_parts:
            self._open_parts[index] = f"text-{next(self._serial)}"
            yield TextStart(self._open_parts[index])
        if added := self._texts[index].add(text):
            yield TextDelta(self._open_parts[index], added)

    def _add_reasoning(self, index: int, text: str | None) -> Iterator[ModelChunk]:
        """Opened even without text: a provider may hide the text and send only its signature."""
        if index not in self._open_parts:
            self._open_parts[index] = f"reasoning-{next(self._serial)}"
            yield ReasoningStart(self._open_parts[index])
        if text and (added := self._texts[index].add(text)):
            yield ReasoningDelta(self._open_parts[index], added)

    def _close_reasoning_item(self) -> Iterator[ModelChunk]:
        """Close the parts of a reasoning item. OpenAI signs its first part after the last one has ended."""
        for index, part in self._unsigned_reasoning.items():
            yield from self._close_part(index, part)
        self._unsigned_reasoning.clear()

    def _close_part(self, index: int, part: ModelResponsePart) -> Iterator[ModelChunk]:
        if (part_id := self._open_parts.pop(index, None)) is None:
            return
        rest = self._texts[index].end()
        if isinstance(part, TextPart):
            if rest:
                yield TextDelta(part_id, rest)
            yield TextEnd(part_id, self._origin.metadata(part))
            yield from self._source_chunks(part)
        elif isinstance(part, ThinkingPart):
            if rest:
                yield ReasoningDelta(part_id, rest)
            yield ReasoningEnd(part_id, self._origin.metadata(part))

    def _source_chunks(self, part: TextPart) -> Iterator[ModelChunk]:
        """The sources of a text, each once. The step makes the ids unique in the message."""
        for source in (source for citation in part.citations or () for source in citation.sources):
            is_web = isinstance(source, WebCitationSource)
            location = source.url if isinstance(source, WebCitationSource) else source.document_id
            if (location, source.title) in self._sources:
                continue
            self._sources.add((location, source.title))
            source_id = f"source-{self._step}-{len(self._sources)}"
            if is_web and location:
                yield SourceUrl(source_id, location, source.title or UNSET)
            else:
                title = source.title or location or "document"
                yield SourceDocument(source_id, "text/plain", title, source.title or UNSET)

    def _start_call(self, index: int, call: ToolCallPart) -> ModelChunk:
        call_id = call.tool_call_id
        while call_id in self._call_ids:  # some servers reuse ids in every answer
            call_id = f"{call_id}-{len(self._call_ids)}"
        self._call_ids.add(call_id)
        self._calls[index] = call_id
        return ToolInputStart(call_id, call.tool_name)

    def _add_arguments(self, index: int, args: str | dict[str, Any] | None) -> Iterator[ModelChunk]:
        if args and index in self._calls:
            text = args if isinstance(args, str) else msgspec.json.encode(args).decode()
            if added := self._texts[index].add(text):
                yield ToolInputDelta(self._calls[index], added)


def _usage(usage: RequestUsage) -> Usage:
    return Usage(
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.output_reasoning_tokens
    )
