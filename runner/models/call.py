"""One call to a real provider: the request out, the answer back as chunks.

Owns the translation between pydantic-ai's stream and ours, and what each failure is called; never the
conversation's form (`history`), the connections or the names (`provider`). Importing it imports pydantic-ai.
"""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from http import HTTPStatus
from itertools import count
from types import MappingProxyType
from typing import Any

import msgspec
from pydantic_ai import exceptions
from pydantic_ai.direct import model_request_stream
from pydantic_ai.messages import (
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
)
from pydantic_ai.models import Model as LibraryModel
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from protocol.chunks import (
    FinishReason,
    ReasoningDelta,
    ReasoningEnd,
    ReasoningStart,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputStart,
)
from protocol.partial_json import names_prototype
from runner.models.history import Origin, to_messages
from runner.models.port import Done, ModelChunk, ModelError, ModelRequest, ToolSpec, Usage

_REASONS: MappingProxyType[str, FinishReason] = MappingProxyType(
    {"stop": "stop", "length": "length", "content_filter": "content-filter", "tool_call": "tool-calls"}
)
_TRANSIENT = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS)


class ProviderModel:
    """A model of a real provider."""

    def __init__(
        self, model: LibraryModel, provider: str, *, answer_timeout_s: float, retries_max: int
    ) -> None:
        self._model = model
        self._origin = Origin(provider, model.model_name, model.system)
        self._settings = ModelSettings(request_timeout=answer_timeout_s, max_retries=retries_max)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """The answer as chunks. Closing the generator, or cancelling its task, closes the HTTP stream."""
        earlier = {part["toolCallId"] for part in request.answer["parts"] if "toolCallId" in part}
        answer = _Answer(self._origin, earlier)
        async with aclosing(self._events(request)) as events:
            async for event in events:
                for chunk in answer.end(event) if isinstance(event, ModelResponse) else answer.take(event):
                    yield chunk

    async def _events(
        self, request: ModelRequest
    ) -> AsyncGenerator[ModelResponseStreamEvent | ModelResponse]:
        """The library's events, and at the end its response as a whole. All its failures are named here."""
        messages = to_messages(request.instructions, [*request.history, request.answer], self._origin)
        parameters = ModelRequestParameters(function_tools=[_tool(spec) for spec in request.tools])
        begun = False
        try:
            async with model_request_stream(
                self._model, messages, model_settings=self._settings, model_request_parameters=parameters
            ) as response:
                async for event in response:
                    begun = True
                    yield event
                yield _complete(response.get())
        except Exception as fault:  # a stranger's bytes break the library in many ways
            raise _named(fault, begun=begun) from fault


class _Answer:
    """What the answer consists of so far. Parts are known by the library's index."""

    def __init__(self, origin: Origin, earlier_calls: set[str]) -> None:
        self._origin = origin
        self._taken = earlier_calls
        self._serial = count()
        self._open: dict[int, str] = {}
        self._calls: dict[int, str] = {}

    def take(self, event: ModelResponseStreamEvent) -> Iterator[ModelChunk]:
        """The chunks of one event."""
        match event:
            case PartDeltaEvent(index=index, delta=TextPartDelta(content_delta=text)):
                yield from self._text(index, text)
            case PartDeltaEvent(index=index, delta=ThinkingPartDelta(content_delta=text)):
                yield from self._reasoning(index, text)
            case PartDeltaEvent(index=index, delta=ToolCallPartDelta(args_delta=args)):
                yield from self._arguments(index, args)
            case PartStartEvent(index=index, part=TextPart(content=text)):
                yield from self._text(index, text)
            case PartStartEvent(index=index, part=ThinkingPart(content=text)):
                yield from self._reasoning(index, text)
            case PartStartEvent(index=index, part=ToolCallPart() as call):
                yield self._call(index, call)
                yield from self._arguments(index, call.args)
            case PartEndEvent(index=index, part=part):
                yield from self._close(index, part)

    def end(self, response: ModelResponse) -> Iterator[ModelChunk | Done]:
        """What remains: the calls, whose arguments may have come in turns, and the sum."""
        for index in tuple(self._open):
            yield from self._close(index, response.parts[index])
        for index, call_id in self._calls.items():
            call = response.parts[index]
            if isinstance(call, ToolCallPart):
                yield ToolInputAvailable(
                    call_id, call.tool_name, _input(call.args), provider_metadata=self._origin.metadata(call)
                )
        reason = _REASONS.get(response.finish_reason or "", "other")
        if self._calls and reason == "stop":  # as some servers put it
            reason = "tool-calls"
        yield Done(reason, Usage(response.usage.input_tokens, response.usage.output_tokens))

    def _text(self, index: int, text: str) -> Iterator[ModelChunk]:
        if not text:
            return
        if index not in self._open:
            self._open[index] = f"text-{next(self._serial)}"
            yield TextStart(self._open[index])
        yield TextDelta(self._open[index], _storable(text))

    def _reasoning(self, index: int, text: str | None) -> Iterator[ModelChunk]:
        """Opened also without text: the provider may keep the text and give only its signature."""
        if index not in self._open:
            self._open[index] = f"reasoning-{next(self._serial)}"
            yield ReasoningStart(self._open[index])
        if text:
            yield ReasoningDelta(self._open[index], _storable(text))

    def _close(self, index: int, part: ModelResponsePart) -> Iterator[ModelChunk]:
        if (part_id := self._open.pop(index, None)) is None:
            return
        if isinstance(part, TextPart):
            yield TextEnd(part_id, self._origin.metadata(part))
        elif isinstance(part, ThinkingPart):
            yield ReasoningEnd(part_id, self._origin.metadata(part))

    def _call(self, index: int, call: ToolCallPart) -> ModelChunk:
        call_id = call.tool_call_id
        while call_id in self._taken:  # some servers count anew in every answer, or do not count at all
            call_id = f"{call_id}-{len(self._taken)}"
        self._taken.add(call_id)
        self._calls[index] = call_id
        return ToolInputStart(call_id, call.tool_name)

    def _arguments(self, index: int, args: str | dict[str, Any] | None) -> Iterator[ModelChunk]:
        if args and index in self._calls:
            text = args if isinstance(args, str) else msgspec.json.encode(args).decode()
            yield ToolInputDelta(self._calls[index], _storable(text))


def _tool(spec: ToolSpec) -> ToolDefinition:
    # Not strict: the provider would want a schema of its own, and the arguments are validated here anyway.
    return ToolDefinition(
        name=spec.name,
        description=spec.description,
        parameters_json_schema=spec.input_schema,
        strict=False,
    )


def _input(args: object) -> Any:
    """A call's arguments parsed, or as text if they are not an object that a client can hold."""
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
    """Half of a surrogate pair, which JSON can say and UTF-8 cannot, becomes U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _complete(response: ModelResponse) -> ModelResponse:
    """The response, if the provider said that it is the whole."""
    said = response.finish_reason or (response.provider_details or {}).get("finish_reason")
    if response.state != "complete" or not said:
        raise exceptions.UnexpectedModelBehavior("the stream ended early")
    return response


def _named(fault: Exception, *, begun: bool) -> ModelError:
    """What people are told. The library's own texts name hosts, keys and classes."""
    transient = False
    match fault:
        case exceptions.ModelContextWindowExceededError():
            detail = "the conversation is too long for the model"
        case exceptions.ModelQuotaExceededError():
            detail = "the model provider's quota is used up"
        case exceptions.ModelHTTPError(status_code=status):
            detail = f"the model provider answered {_status(status)}"
            transient = status in _TRANSIENT or status >= HTTPStatus.INTERNAL_SERVER_ERROR
        case exceptions.ModelRequestTimeout():
            detail, transient = "the model did not finish in time", True
        case exceptions.ModelTimeoutError():
            detail, transient = "the model provider fell silent", True
        case exceptions.ModelConnectionError():
            detail = f"the connection to the model provider {'broke' if begun else 'failed'}"
            transient = True
        case exceptions.UserError() | NotImplementedError():
            detail = "the model does not take what this conversation holds"
        case _:
            detail = "the model provider's answer broke off or cannot be read"
    return ModelError(detail, retryable=transient and not begun)


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
