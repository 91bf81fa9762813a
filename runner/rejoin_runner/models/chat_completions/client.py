"""Asks a service for one answer: sends the request, and returns the answer as chunks of the message.

Owns the HTTP request and the meaning of its failures. Retries, keys and names belong to `providers`.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from types import MappingProxyType

import aiohttp
import msgspec
from yarl import URL

from rejoin_runner.models.call_recording import ReportedRequest
from rejoin_runner.models.chat_completions.answer_reader import FAILED_REASONS, AnswerReader
from rejoin_runner.models.chat_completions.chunk import decode_chunk
from rejoin_runner.models.chat_completions.event_stream import EventStreamParser, EventTooLong
from rejoin_runner.models.chat_completions.request_body import BodyBuilder
from rejoin_runner.models.chat_completions.services import ChatService
from rejoin_runner.models.deadline import Deadline, Silence
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.models.providers.conversation import Turn
from rejoin_runner.models.providers.model_origin import ModelOrigin
from rejoin_runner.models.providers.provider_failure import (
    ProviderFailure,
    broken_answer,
    classify_failure,
    reported_failure,
    status_failure,
)
from rejoin_runner.models.providers.request_rules import RequestRules

_DONE = b"[DONE]"
_ERROR_BYTES_MAX = 64 * 1024
_OK = 200
_REST_S = 0.25
"""How long the end of the stream may take behind a complete answer."""

type OpenSession = Callable[[], aiohttp.ClientSession]


class ChatCompletions:
    """One model of a service, for all API keys.

    `headers` go out with every request. `open_session` returns the session with the process's connections.
    `silence_s`: how long the service may be silent.
    """

    def __init__(
        self,
        provider: str,
        model: str,
        service: ChatService,
        open_session: OpenSession,
        *,
        silence_s: float,
        refused_files: frozenset[str],
        rules: RequestRules,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.origin = ModelOrigin(provider, model, provider, refused_files, rules)
        self._service = service
        self._open_session = open_session
        self._silence_s = silence_s
        self._builder = BodyBuilder(model, service, rules)
        base = URL(service.base_url)
        self._url = base.with_path(base.path.rstrip("/") + "/chat/completions").with_query(base.query)
        self._headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "user-agent": "rejoin",
            **headers,
        }

    async def answer(
        self,
        api_key: str,
        request: ModelRequest,
        turns: Sequence[Turn],
        origin: ModelOrigin,
        timeout_s: float,
    ) -> AsyncGenerator[ModelChunk | Done]:
        """See `ModelWire`."""
        request = self._builder.declare_output(request)
        reader = AnswerReader(self._service, origin, request)
        begun, reported = False, ReportedRequest()
        with closing(Deadline(timeout_s, self._silence_s)) as deadline:
            response: aiohttp.ClientResponse | None = None
            try:
                with deadline:
                    response = await self._send(api_key, request, turns, reported)
                parser, is_done = EventStreamParser(), False
                while not is_done:
                    with deadline:
                        data = await response.content.readany()
                    reported.received(data)
                    is_done = not data
                    for event in parser.feed(data):
                        if event == _DONE:
                            is_done = True
                            break
                        for chunk in _read(reader, event, begun=begun):
                            begun = True
                            yield chunk
            except (aiohttp.ClientError, OSError, EventTooLong) as fault:
                # An answer with a finish reason is whole, whatever happens to its connection.
                if reader.finish_reason is None:
                    raise _translate_error(fault, begun=begun) from fault
            finally:
                reported.end()
                if response is not None:
                    await _release(response, reads_rest=reader.finish_reason is not None)
        if reader.finish_reason is None:
            raise broken_answer(begun=begun)
        for item in reader.finish():
            yield item

    async def _send(
        self, api_key: str, request: ModelRequest, turns: Sequence[Turn], reported: ReportedRequest
    ) -> aiohttp.ClientResponse:
        """The response, if it is an answer. Raises `ProviderFailure`, and what aiohttp raises."""
        try:
            body = await self._builder.build(request, turns)
        except Exception as fault:  # a download can raise many types
            raise classify_failure(fault, begun=False) from fault
        is_bearer = self._service.key_header == "authorization"
        key = f"Bearer {api_key}" if is_bearer else api_key
        headers = {**self._headers, self._service.key_header: key}
        reported.sent(self._url, body)
        try:
            response = await self._open_session().post(
                self._url, data=body, headers=headers, allow_redirects=False
            )
        except ValueError as fault:  # a key with a line break, or an address that is none
            raise ProviderFailure(
                "the request to the model provider cannot be sent", retryable=False
            ) from fault
        reported.answered(response.status)
        if response.status == _OK:
            return response
        try:
            text = await response.content.read(_ERROR_BYTES_MAX)
            reported.received(text)
        finally:
            response.close()
        raise status_failure(response.status, _parse_error(text), response.headers)


async def _release(response: aiohttp.ClientResponse, *, reads_rest: bool) -> None:
    """Close the response. The end of a complete one is read first: its connection can be used again then."""
    if reads_rest and not response.content.at_eof():
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(_REST_S):
                await response.content.readany()
    response.close()


def _read(reader: AnswerReader, event: bytes, *, begun: bool) -> Sequence[ModelChunk]:
    """The chunks of one event. Raises `ProviderFailure` if it is a failure, or no chunk."""
    if not event.strip():
        return ()
    try:
        chunk = decode_chunk(event)
    except ValueError as fault:
        raise broken_answer(begun=begun) from fault
    if chunk.error is not None and reader.finish_reason is None:
        raise reported_failure(chunk.error, begun=begun)
    chunks = list(reader.read(chunk))
    if reader.finish_reason in FAILED_REASONS:
        raise reported_failure(None, begun=begun or bool(chunks))
    return chunks


def _parse_error(text: bytes) -> object:
    """The error in a body: services put it in an object, or the object in a list."""
    try:
        body = msgspec.json.decode(text)
    except ValueError:
        return text.decode(errors="replace")
    if isinstance(body, list) and body:
        body = body[0]
    return body.get("error", body) if isinstance(body, dict) else body


def _translate_error(fault: Exception, *, begun: bool) -> ProviderFailure:
    match fault:
        case aiohttp.ConnectionTimeoutError():
            detail = "the connection to the model provider failed"
        case Silence():
            detail = "the model provider fell silent"
        case aiohttp.ClientError() | EventTooLong():
            detail = f"the connection to the model provider {'broke' if begun else 'failed'}"
        case TimeoutError():
            detail = "the model did not finish in time"
        case _:
            detail = f"the connection to the model provider {'broke' if begun else 'failed'}"
    return ProviderFailure(detail, retryable=not begun)
