"""OpenAI's client and pydantic-ai's model for it, with a fast path for streamed text.

Most chunks of a stream only add text to a part that is already open. Such a chunk is decoded into `TextChunk`
and passed on at once. The client would build it field by field, and the library would pass it through a
dozen generators, locks and cancel scopes: most of a runner's CPU time per token. The library gets these texts
later, joined, before the next chunk of another kind, so that it knows the complete answer at the end.
Requests, errors and all other chunks are left to the client and the library.

It overrides private hooks of both libraries, which `openai_hooks` checks. Importing it imports both.
"""

import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import suppress
from types import coroutine
from typing import TYPE_CHECKING, Any, Self, cast, override

import msgspec
import pydantic
from openai import AsyncOpenAI, AsyncStream
from openai._streaming import ServerSentEvent, SSEDecoder
from openai.types.chat import ChatCompletionChunk
from pydantic_ai.messages import (
    ModelResponseStreamEvent,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
)
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIChatModelSettings, OpenAIStreamedResponse
from pydantic_ai.profiles import DEFAULT_THINKING_TAGS

if TYPE_CHECKING:
    import httpx2

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_DATA = b"data: "
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")
"""Characters that the library hides in the special tokens of some models, and removes from answers."""


class _Delta(msgspec.Struct, frozen=True):
    content: str
    refusal: None = None
    reasoning: None = None
    reasoning_content: None = None
    annotations: None = None
    tool_calls: None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta
    finish_reason: None = None
    logprobs: None = None


class TextChunk(msgspec.Struct, frozen=True):
    """A chunk that has a text delta and nothing else. It has the attributes that the library reads."""

    choices: tuple[_Choice]
    id: str = ""
    created: int = 0
    model: str = ""
    service_tier: str | None = None
    usage: None = None
    moderation: None = None
    error: None = None

    @property
    def text(self) -> str:
        """The text delta."""
        return self.choices[0].delta.content


type _Chunk = TextChunk | ChatCompletionChunk
type _ChunkOrEnd = _Chunk | Exception
"""A chunk, or the end of the stream: `StopAsyncIteration` or the exception that ended it."""

_text_chunk_decoder = msgspec.json.Decoder(TextChunk)


class _FastSseEvent(ServerSentEvent):
    @override
    def json(self) -> Any:
        try:
            return _text_chunk_decoder.decode(self.data)
        except msgspec.DecodeError:
            return super().json()


class _FastSseDecoder(SSEDecoder):
    """Decodes an event that is a single data line directly; the base class decodes all others."""

    @override
    async def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> AsyncIterator[ServerSentEvent]:
        rest = b""
        async for data in iterator:
            buffered = rest + data
            *events, rest = _EVENT_END.split(buffered) if b"\r" in buffered else buffered.split(b"\n\n")
            for event in events:
                if event.startswith(_DATA) and b"\n" not in event and b"\r" not in event:
                    yield _FastSseEvent(data=event.removeprefix(_DATA).decode())
                    continue
                for line in event.splitlines():
                    self.decode(line.decode())
                if (decoded := self.decode("")) is not None:
                    yield decoded


class FastOpenAIClient(AsyncOpenAI):
    """Behaves like its base class; decodes streamed events faster."""

    @override
    def _make_sse_decoder(self) -> SSEDecoder:
        return _FastSseDecoder()

    @override
    def _process_response_data[T](self, *, data: object, cast_to: type[T], response: "httpx2.Response") -> T:
        if isinstance(data, TextChunk):
            return cast("T", data)
        if cast_to == ChatCompletionChunk:
            try:
                return cast("T", ChatCompletionChunk.model_validate(data))
            except pydantic.ValidationError:
                pass  # a service that is not fully compatible: the base class is lenient
        return super()._process_response_data(data=data, cast_to=cast_to, response=response)


@coroutine
def _suspend() -> Generator[None]:
    yield


class _LibraryFeed:
    """Feeds the library chunk by chunk and returns its events, without an event loop in between.

    The library takes this object for the stream. Where it would wait for a chunk, its coroutine is suspended;
    the next `feed` resumes it.
    """

    def __init__(self, source: AsyncStream[ChatCompletionChunk]) -> None:
        self.source = source
        self._chunks: deque[_ChunkOrEnd] = deque()
        self._suspended_step: Generator[Any, Any, ModelResponseStreamEvent] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Chunk:
        while not self._chunks:
            await _suspend()
        chunk = self._chunks.popleft()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def feed(
        self, events: AsyncIterator[ModelResponseStreamEvent], chunk: _ChunkOrEnd
    ) -> Iterator[ModelResponseStreamEvent]:
        """The library's events for this chunk, or for the end of the stream."""
        self._chunks.append(chunk)
        while True:
            step, self._suspended_step = self._suspended_step or anext(events).__await__(), None
            try:
                step.send(None)
            except StopIteration as result:
                yield result.value
            except StopAsyncIteration:
                return
            else:
                self._suspended_step = step
                return

    def close(self) -> None:
        """End the suspended coroutine."""
        if self._suspended_step is not None:
            with suppress(GeneratorExit, StopAsyncIteration):
                self._suspended_step.throw(GeneratorExit)


class _FastResponse(OpenAIStreamedResponse):
    """The library's response, over a `_LibraryFeed` instead of a stream. `open_index`: the index of the open
    text part.
    """

    @override
    async def __aiter__(self) -> AsyncGenerator[ModelResponseStreamEvent]:
        library, events = cast("_LibraryFeed", self._response), super().__aiter__()
        sent_texts: list[str] = []
        open_index: int | None = None
        try:
            async for chunk in _chunks_and_end(library.source):
                if (
                    open_index is not None
                    and isinstance(chunk, TextChunk)
                    and self._is_plain(chunk.text, open_index)
                ):
                    if chunk.text:
                        sent_texts.append(chunk.text)
                        yield PartDeltaEvent(index=open_index, delta=TextPartDelta(content_delta=chunk.text))
                    continue
                for text_chunk in self._join_texts(sent_texts):
                    deque(library.feed(events, text_chunk), maxlen=0)  # its events were sent before
                sent_texts.clear()
                for event in library.feed(events, chunk):
                    open_index = _find_open_text(event, open_index)
                    yield event
        finally:
            library.close()

    def _is_plain(self, text: str, open_index: int) -> bool:
        """Whether the library would pass the text on unchanged and at once."""
        restorer = self._parts_manager.special_token_restorer
        if restorer is not None and (_INVISIBLE.search(text) or restorer.restorers[open_index].held):
            return False
        return text not in self._thinking_tags

    def _join_texts(self, texts: list[str]) -> Iterator[TextChunk]:
        joined = "".join(texts)
        for text in texts if joined in self._thinking_tags else [joined] * bool(texts):
            yield TextChunk((_Choice(_Delta(text)),))

    @property
    def _thinking_tags(self) -> tuple[str, str]:
        """The texts with which some models begin and end their reasoning."""
        return self._model_profile.get("thinking_tags", DEFAULT_THINKING_TAGS)


async def _chunks_and_end(stream: AsyncIterator[ChatCompletionChunk]) -> AsyncGenerator[_ChunkOrEnd]:
    """The chunks, then what ended the stream."""
    try:
        async for chunk in stream:
            yield chunk
    except Exception as fault:  # noqa: BLE001 - the library classifies it
        yield fault
    else:
        yield StopAsyncIteration()


def _find_open_text(event: ModelResponseStreamEvent, open_index: int | None) -> int | None:
    """The index of the text part that the next text delta belongs to, if one is open."""
    match event:
        case (
            PartStartEvent(index=index, part=TextPart()) | PartDeltaEvent(index=index, delta=TextPartDelta())
        ):
            return index
        case PartStartEvent() | PartDeltaEvent() | PartEndEvent():
            return None
        case _:
            return open_index


class FastChatModel(OpenAIChatModel):
    """Behaves like its base class; passes streamed text on faster."""

    @override
    async def _process_streamed_response(
        self,
        response: AsyncStream[ChatCompletionChunk],
        model_request_parameters: ModelRequestParameters,
        model_settings: OpenAIChatModelSettings | None = None,
    ) -> OpenAIStreamedResponse:
        streamed = _FastResponse(
            model_request_parameters=model_request_parameters,
            _model_name=self.model_name,
            _model_profile=self.profile,
            _response=cast("Any", _LibraryFeed(response)),
            _provider_name=self._provider.name,
            _model_id_namespace=self._provider.model_id_namespace,
            _provider_url=self._provider.base_url,
            _model_settings=model_settings,
        )
        streamed.canonical_system = self._canonical_system_stamp
        return streamed
