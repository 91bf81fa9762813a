"""Translates pydantic-ai's stream of a provider's answer to chunks.

Never the request, nor the classification of failures. A part of the library is identified by its index.
"""

import base64
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
from rejoin_protocol.events.partial_json import names_prototype

from rejoin_runner.models.model import Done, ModelChunk, Usage
from rejoin_runner.models.providers.history import ModelOrigin

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
        self._open: dict[int, str] = {}
        self._unsigned: dict[int, ThinkingPart] = {}
        self._calls: dict[int, str] = {}
        self._files: set[int] = set()
        self._sources: set[tuple[str | None, ...]] = set()

    def translate(self, event: ModelResponseStreamEvent) -> Iterator[ModelChunk]:
        """The chunks of one event."""
        match event:
            case PartDeltaEvent(index=index, delta=TextPartDelta(content_delta=text)):
                yield from self._text(index, text)
            case PartDeltaEvent(index=index, delta=ThinkingPartDelta() as delta) if index in self._unsigned:
                self._unsigned[index] = delta.apply(self._unsigned[index])
            case PartDeltaEvent(index=index, delta=ThinkingPartDelta(content_delta=text)):
                yield from self._reasoning(index, text)
            case PartDeltaEvent(index=index, delta=ToolCallPartDelta(args_delta=args)):
                yield from self._arguments(index, args)
            case PartStartEvent(index=index, part=part):
                yield from self._start(index, part)
            case PartEndEvent(index=index, part=ThinkingPart(id=str()) as part) if index in self._open:
                self._unsigned[index] = part
            case PartEndEvent(index=index, part=part):
                yield from self._close(index, part)

    def finish(self, response: ModelResponse) -> Iterator[ModelChunk | Done]:
        """The remaining chunks: open parts, the complete tool calls, and the `Done`.

        Tool calls come last because their arguments may arrive interleaved.
        """
        yield from self._sign()
        for index in tuple(self._open):
            yield from self._close(index, response.parts[index])
        for index, call_id in self._calls.items():
            call = response.parts[index]
            if isinstance(call, ToolCallPart):
                yield ToolInputAvailable(
                    call_id, call.tool_name, _input(call.args), provider_metadata=self._origin.metadata(call)
                )
        reason = _REASONS.get(response.finish_reason or "", "other")
        if self._calls and reason == "stop":  # some servers say "stop" after a tool call
            reason = "tool-calls"
        yield Done(reason, _usage(response.usage))

    def _start(self, index: int, part: ModelResponsePart) -> Iterator[ModelChunk]:
        if not (isinstance(part, ThinkingPart) and part.id in {one.id for one in self._unsigned.values()}):
            yield from self._sign()
        match part:
            case TextPart(content=text):
                yield from self._text(index, text)
            case ThinkingPart(content=text):
                yield from self._reasoning(index, text)
            case ToolCallPart() as call:
                yield self._call(index, call)
                yield from self._arguments(index, call.args)
            case FilePart(content=content) as part if index not in self._files:
                self._files.add(index)
                body = base64.b64encode(content.data).decode()
                url = f"data:{content.media_type};base64,{body}"
                yield File(url, content.media_type, self._origin.metadata(part))
            case _:
                pass

    def _text(self, index: int, text: str) -> Iterator[ModelChunk]:
        if not text:
            return
        if index not in self._open:
            self._open[index] = f"text-{next(self._serial)}"
            yield TextStart(self._open[index])
        yield TextDelta(self._open[index], _storable(text))

    def _reasoning(self, index: int, text: str | None) -> Iterator[ModelChunk]:
        """Opened even without text: a provider may hide the text and send only its signature."""
        if index not in self._open:
            self._open[index] = f"reasoning-{next(self._serial)}"
            yield ReasoningStart(self._open[index])
        if text:
            yield ReasoningDelta(self._open[index], _storable(text))

    def _sign(self) -> Iterator[ModelChunk]:
        """Close the parts of a reasoning item. OpenAI signs its first part after the last one has ended."""
        for index, part in self._unsigned.items():
            yield from self._close(index, part)
        self._unsigned.clear()

    def _close(self, index: int, part: ModelResponsePart) -> Iterator[ModelChunk]:
        if (part_id := self._open.pop(index, None)) is None:
            return
        if isinstance(part, TextPart):
            yield TextEnd(part_id, self._origin.metadata(part))
            yield from self._cited(part)
        elif isinstance(part, ThinkingPart):
            yield ReasoningEnd(part_id, self._origin.metadata(part))

    def _cited(self, part: TextPart) -> Iterator[ModelChunk]:
        """The sources of a text, each once. The step makes the ids unique in the message."""
        for source in (source for citation in part.citations or () for source in citation.sources):
            web = isinstance(source, WebCitationSource)
            place = source.url if isinstance(source, WebCitationSource) else source.document_id
            if (place, source.title) in self._sources:
                continue
            self._sources.add((place, source.title))
            source_id = f"source-{self._step}-{len(self._sources)}"
            if web and place:
                yield SourceUrl(source_id, place, source.title or UNSET)
            else:
                title = source.title or place or "document"
                yield SourceDocument(source_id, "text/plain", title, source.title or UNSET)

    def _call(self, index: int, call: ToolCallPart) -> ModelChunk:
        call_id = call.tool_call_id
        while call_id in self._call_ids:  # some servers reuse ids in every answer
            call_id = f"{call_id}-{len(self._call_ids)}"
        self._call_ids.add(call_id)
        self._calls[index] = call_id
        return ToolInputStart(call_id, call.tool_name)

    def _arguments(self, index: int, args: str | dict[str, Any] | None) -> Iterator[ModelChunk]:
        if args and index in self._calls:
            text = args if isinstance(args, str) else msgspec.json.encode(args).decode()
            yield ToolInputDelta(self._calls[index], _storable(text))


def _usage(usage: RequestUsage) -> Usage:
    return Usage(
        usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.output_reasoning_tokens
    )


def _input(args: object) -> Any:
    """The parsed arguments, or the raw text if they are not an object that clients accept."""
    if not isinstance(args, str):
        return args or {}
    if not args.strip():
        return {}
    try:
        value = msgspec.json.decode(args)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return _storable(args)
    return value if isinstance(value, dict) and not names_prototype(value) else _storable(args)


def _storable(text: str) -> str:
    """Replace lone surrogates, which JSON allows and UTF-8 does not, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
