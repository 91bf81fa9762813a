"""OpenAI's client and the library's model for it, but quick at what a stream of chat completions consists of.

A chunk that only says a piece of a text that is open already is read into `TextChunk` and passed on at
once. The
client would build it field by field, and the library would take it through a dozen generators, locks and
cancel scopes: most of what a runner does for a word. The library is given such pieces later, joined, before
the next chunk of another kind, so that it knows the whole answer when that ends. All else is the client's and
the library's: requests, failures, what other chunks mean. Importing this imports openai and pydantic-ai.
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
"""What the library puts into the special tokens of some models, and takes out again."""


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
    """A chunk that says a piece of text. It has what the library looks at; of that, nothing else is said."""

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
        """What it says."""
        return self.choices[0].delta.content


type _Chunk = TextChunk | ChatCompletionChunk
type _Next = _Chunk | Exception
"""The end is `StopAsyncIteration`, or what has gone wrong."""

_piece = msgspec.json.Decoder(TextChunk)


class _Event(ServerSentEvent):
    @override
    def json(self) -> Any:
        try:
            return _piece.decode(self.data)
        except msgspec.DecodeError:
            return super().json()


class _Events(SSEDecoder):
    """Looks at each byte once, where nearly every event is one line of data. Others are its base's."""

    @override
    async def aiter_bytes(self, iterator: AsyncIterator[bytes]) -> AsyncIterator[ServerSentEvent]:
        rest = b""
        async for came in iterator:
            whole = rest + came
            *events, rest = _EVENT_END.split(whole) if b"\r" in whole else whole.split(b"\n\n")
            for event in events:
                if event.startswith(_DATA) and b"\n" not in event and b"\r" not in event:
                    yield _Event(data=event.removeprefix(_DATA).decode())
                    continue
                for line in event.splitlines():
                    self.decode(line.decode())
                if (other := self.decode("")) is not None:
                    yield other


class FastOpenAIClient(AsyncOpenAI):
    """Says and takes the same as its base, which owns everything else."""

    @override
    def _make_sse_decoder(self) -> SSEDecoder:
        return _Events()

    @override
    def _process_response_data[T](self, *, data: object, cast_to: type[T], response: "httpx2.Response") -> T:
        if isinstance(data, TextChunk):
            return cast("T", data)
        if cast_to == ChatCompletionChunk:
            try:
                return cast("T", ChatCompletionChunk.model_validate(data))
            except pydantic.ValidationError:
                pass  # of a service that is not quite compatible
        return super()._process_response_data(data=data, cast_to=cast_to, response=response)


@coroutine
def _left() -> Generator[None]:
    yield


class _Library:
    """The library's reading of a stream, without the waiting: given a chunk, it makes its events of it.

    It takes this for the stream. Where it would wait for one, it is left, and it goes on when there is more.
    """

    def __init__(self, source: AsyncStream[ChatCompletionChunk]) -> None:
        self.source = source
        self._given: deque[_Next] = deque()
        self._step: Generator[Any, Any, ModelResponseStreamEvent] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Chunk:
        while not self._given:
            await _left()
        chunk = self._given.popleft()
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def take(
        self, events: AsyncIterator[ModelResponseStreamEvent], chunk: _Next
    ) -> Iterator[ModelResponseStreamEvent]:
        """What it makes of this chunk, or of the end of the stream, `StopAsyncIteration` or a failure."""
        self._given.append(chunk)
        while True:
            step, self._step = self._step or anext(events).__await__(), None
            try:
                step.send(None)
            except StopIteration as made:
                yield made.value
            except StopAsyncIteration:
                return
            else:
                self._step = step
                return

    def close(self) -> None:
        """It gets no more."""
        if self._step is not None:
            with suppress(GeneratorExit, StopAsyncIteration):
                self._step.throw(GeneratorExit)


class _Response(OpenAIStreamedResponse):
    """Its `_response` is a `_Library`."""

    @override
    async def __aiter__(self) -> AsyncGenerator[ModelResponseStreamEvent]:
        library, events = cast("_Library", self._response), super().__aiter__()
        said: list[str] = []
        at: int | None = None  # the text that is open
        try:
            async for chunk in _to_the_end(library.source):
                if at is not None and isinstance(chunk, TextChunk) and self._is_plain(chunk.text, at):
                    if chunk.text:
                        said.append(chunk.text)
                        yield PartDeltaEvent(index=at, delta=TextPartDelta(content_delta=chunk.text))
                    continue
                for piece in self._joined(said):
                    deque(library.take(events, piece), maxlen=0)  # it was passed on already
                said.clear()
                for event in library.take(events, chunk):
                    at = _open_text(event, at)
                    yield event
        finally:
            library.close()

    def _is_plain(self, text: str, at: int) -> bool:
        """Whether the library would pass it on as it is, and at once."""
        restorer = self._parts_manager.special_token_restorer
        if restorer is not None and (_INVISIBLE.search(text) or restorer.restorers[at].held):
            return False
        return text not in self._tags

    def _joined(self, said: list[str]) -> Iterator[TextChunk]:
        whole = "".join(said)
        for text in said if whole in self._tags else [whole] * bool(said):
            yield TextChunk((_Choice(_Delta(text)),))

    @property
    def _tags(self) -> tuple[str, str]:
        """The pieces by which some models begin and end to think aloud."""
        return self._model_profile.get("thinking_tags", DEFAULT_THINKING_TAGS)


async def _to_the_end(stream: AsyncIterator[ChatCompletionChunk]) -> AsyncGenerator[_Next]:
    """What comes, and what it ends with."""
    try:
        async for chunk in stream:
            yield chunk
    except Exception as fault:  # noqa: BLE001 - whatever it is, the library names it
        yield fault
    else:
        yield StopAsyncIteration()


def _open_text(event: ModelResponseStreamEvent, at: int | None) -> int | None:
    """Where the next piece goes if it says nothing new of itself."""
    match event:
        case (
            PartStartEvent(index=index, part=TextPart()) | PartDeltaEvent(index=index, delta=TextPartDelta())
        ):
            return index
        case PartStartEvent() | PartDeltaEvent() | PartEndEvent():
            return None
        case _:
            return at


class FastChatModel(OpenAIChatModel):
    """Says the same as its base, and takes the same."""

    @override
    async def _process_streamed_response(
        self,
        response: AsyncStream[ChatCompletionChunk],
        model_request_parameters: ModelRequestParameters,
        model_settings: OpenAIChatModelSettings | None = None,
    ) -> OpenAIStreamedResponse:
        streamed = _Response(
            model_request_parameters=model_request_parameters,
            _model_name=self.model_name,
            _model_profile=self.profile,
            _response=cast("Any", _Library(response)),
            _provider_name=self._provider.name,
            _model_id_namespace=self._provider.model_id_namespace,
            _provider_url=self._provider.base_url,
            _model_settings=model_settings,
        )
        streamed.canonical_system = self._canonical_system_stamp
        return streamed
