"""Translates the chunks of one streamed chat completion to the chunks of a message. Pure.

One text or reasoning part is open at a time: a delta of another kind, or a new tool call, ends it.
"""

from collections.abc import Iterator
from types import MappingProxyType
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from rejoin_protocol.events.chunks import (
    FinishReason,
    Metadata,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    SourceUrl,
    TextDelta,
    TextEnd,
    TextStart,
)
from rejoin_protocol.events.delta_text import DeltaText
from rejoin_runner.models.chat_completions.chunk import ChatChunk, Delta, UsageCount
from rejoin_runner.models.chat_completions.services import ChatService
from rejoin_runner.models.chat_completions.special_tokens import TokenRestorer
from rejoin_runner.models.chat_completions.think_tags import ThinkTagSplitter
from rejoin_runner.models.chat_completions.tool_calls import StreamedCalls
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.models.providers.model_origin import ModelOrigin, ProviderData

TAGGED = "content"
"""The id of reasoning that was between tags in the text. The id of any other is the field that it came in."""
THINKING = "thinking"
"""The id of reasoning that was a part of a content that is a list, as Mistral sends it."""
DETAILS = "reasoning_details"
"""The field of reasoning with signatures, which OpenRouter needs back unchanged."""

_REASONS: MappingProxyType[str, FinishReason] = MappingProxyType(
    {
        "stop": "stop",
        "end_turn": "stop",
        "length": "length",
        "max_tokens": "length",
        "model_length": "length",
        "model_context_window_exceeded": "length",
        "content_filter": "content-filter",
        "sensitive": "content-filter",
        "guardrail_intervened": "content-filter",
        "refusal": "content-filter",
        "tool_calls": "tool-calls",
        "function_call": "tool-calls",
        "tool_use": "tool-calls",
    }
)
FAILED_REASONS = frozenset({"error", "network_error", "insufficient_system_resource"})
"""Finish reasons with which a service says that it failed."""


class AnswerReader:
    """Reads one answer: `read` every chunk, then `finish`.

    `finish_reason` is the service's word once the answer is complete.
    """

    def __init__(self, service: ChatService, origin: ModelOrigin, request: ModelRequest) -> None:
        self.finish_reason: str | None = None
        self._origin = origin
        self._step = request.step
        self._meter = request.meter
        self._thought_fields = service.thought_fields
        self._trims_start = service.trims_start
        self._splitter = ThinkTagSplitter(service.think_tags) if service.think_tags else None
        names = [tool.name for tool in request.tools]
        self._calls = StreamedCalls(request.call_ids(), names, restores=service.reads_tokens)
        self._restorer = TokenRestorer() if service.reads_tokens else None
        self._usage = UsageCount()
        self._refused = False
        self._parts = 0
        self._kind: Literal["text", "reasoning"] | None = None
        self._part_id = ""
        self._thought_id = ""
        self._text = DeltaText()
        self._details: list[dict[str, Any]] = []
        self._sources: dict[str, SourceUrl] = {}
        self._sources_sent = 0

    def read(self, chunk: ChatChunk) -> Iterator[ModelChunk]:
        """The chunks of the message."""
        if chunk.usage is not None:
            self._usage.add(chunk.usage)
        if chunk.x_groq is not None and isinstance(chunk.x_groq, dict):
            self._usage.add(chunk.x_groq.get("usage"))
        if self._meter is not None and isinstance(chunk.model, str):
            self._meter.report_name(chunk.model)
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        if choice.delta is not None:
            yield from self._read_delta(choice.delta)

    def _read_delta(self, delta: Delta) -> Iterator[ModelChunk]:
        for field in self._thought_fields:
            if (thought := getattr(delta, field)) and isinstance(thought, str):
                yield from self._add("reasoning", thought, field)
                break
        if delta.reasoning_details:
            yield from self._add_details(delta.reasoning_details)
        if delta.content:
            yield from self._add_content(delta.content)
        if delta.refusal:
            self._refused = True
            yield from self._add("text", delta.refusal)
        if delta.annotations:
            self._add_sources(delta.annotations)
        for call in delta.tool_calls or ():
            calls = len(self._calls.all)
            chunks = list(self._calls.add(call))
            if len(self._calls.all) > calls:
                yield from self._close()
            yield from chunks

    def finish(self) -> Iterator[ModelChunk | Done]:
        """The end of the open part, the complete calls and the `Done`."""
        if self._splitter is not None:
            for thinks, text in self._splitter.end():
                yield from self._add_piece(thinks=thinks, text=text)
        yield from self._close()
        yield from self._new_sources()
        for call in self._calls.all:
            yield from call.complete()
        for call in self._calls.all:
            details = {"extra_content": call.extra_content} if call.extra_content else None
            yield call.available(self._metadata(ProviderData(self._origin.model, details=details)))
        yield Done(self._map_reason(), self._usage.sum())

    def _map_reason(self) -> FinishReason:
        word = (self.finish_reason or "").lower()
        reason = _REASONS.get(word.partition(":")[0], "other")
        if self._refused:
            return "content-filter"
        if self._calls.all and reason in ("stop", "other"):  # some services say "stop" after a tool call
            return "tool-calls"
        return reason

    def _add_content(self, content: object) -> Iterator[ModelChunk]:
        for thought in _thoughts_of(content):
            yield from self._add("reasoning", thought, THINKING)
        text = content if isinstance(content, str) else _join_parts(content)
        if self._restorer is not None:
            text = self._restorer.restore(text)
        if self._splitter is None:
            yield from self._add_text(text)
            return
        for thinks, piece in self._splitter.split(text):
            yield from self._add_piece(thinks=thinks, text=piece)

    def _add_piece(self, *, thinks: bool, text: str) -> Iterator[ModelChunk]:
        return self._add("reasoning", text, TAGGED) if thinks else self._add_text(text)

    def _add_text(self, text: str) -> Iterator[ModelChunk]:
        if self._trims_start and self._kind != "text":
            text = text.lstrip()
        return self._add("text", text)

    def _add(
        self, kind: Literal["text", "reasoning"], text: str, thought_id: str = ""
    ) -> Iterator[ModelChunk]:
        if not text:
            return
        if self._kind != kind or self._thought_id != thought_id:
            yield from self._open(kind, thought_id)
        if added := self._text.add(text):
            yield (
                TextDelta(self._part_id, added) if kind == "text" else ReasoningDelta(self._part_id, added)
            )

    def _open(self, kind: Literal["text", "reasoning"], thought_id: str) -> Iterator[ModelChunk]:
        yield from self._close()
        self._kind, self._thought_id = kind, thought_id
        self._part_id = f"{kind}-{self._parts}"
        self._parts += 1
        yield TextStart(self._part_id) if kind == "text" else ReasoningStart(self._part_id)

    def _close(self) -> Iterator[ModelChunk]:
        """End the open part."""
        if self._kind is None:
            return
        kind, self._kind = self._kind, None
        rest = self._text.end()
        if kind == "text":
            if rest:
                yield TextDelta(self._part_id, rest)
            yield TextEnd(self._part_id)
            yield from self._new_sources()
            return
        if rest:
            yield ReasoningDelta(self._part_id, rest)
        details = {DETAILS: self._details} if self._details else None
        data = ProviderData(self._origin.model, self._thought_id, details=details)
        self._details = []
        yield ReasoningEnd(self._part_id, self._metadata(data))

    def _metadata(self, data: ProviderData) -> Metadata:
        if data.id is None and data.details is None:
            return UNSET
        return {self._origin.provider: msgspec.to_builtins(data)}

    def _add_details(self, details: object) -> Iterator[ModelChunk]:
        """Keep what the service needs back. A detail comes in pieces with one index."""
        for detail in details if isinstance(details, list) else ():
            if not isinstance(detail, dict):
                continue
            if self._kind != "reasoning":  # the service may hide the text and send only what it needs back
                yield from self._open("reasoning", DETAILS)
            last = self._details[-1] if self._details else {}
            if (last.get("type"), last.get("index")) != (detail.get("type"), detail.get("index")):
                self._details.append(dict(detail))
                continue
            for name, value in detail.items():
                is_text = name in ("text", "summary", "data") and isinstance(value, str)
                last[name] = (last.get(name) or "") + value if is_text else value or last.get(name)

    def _add_sources(self, annotations: object) -> None:
        for annotation in annotations if isinstance(annotations, list) else ():
            match annotation:
                case {"url_citation": {"url": str() as url, **more}} if url and url not in self._sources:
                    title = more.get("title")
                    id = f"source-{self._step}-{len(self._sources) + 1}"
                    self._sources[url] = SourceUrl(id, url, title if isinstance(title, str) else UNSET)
                case _:
                    pass

    def _new_sources(self) -> Iterator[SourceUrl]:
        new = list(self._sources.values())[self._sources_sent :]
        self._sources_sent = len(self._sources)
        yield from new


def _thoughts_of(content: object) -> Iterator[str]:
    """The reasoning in a content that is a list of parts."""
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type") == "thinking":
            thinking = part.get("thinking")
            yield thinking if isinstance(thinking, str) else _join_parts(thinking)


def _join_parts(content: object) -> str:
    """The text of a content that is a list of parts."""
    parts = content if isinstance(content, list) else ()
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))
