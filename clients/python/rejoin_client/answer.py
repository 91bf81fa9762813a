"""One stream of events, which reconnects when the connection breaks.

The server's rules: every event has an id; `Last-Event-ID` requests the events after it; status 410 means that
the log no longer has them, status 204 that the run has ended and there are none; `[DONE]` ends a complete
stream. A body that ends without `[DONE]` is a broken connection.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, Self, overload
from urllib.parse import quote, unquote

import aiohttp
import msgspec

from rejoin_client.errors import Gone, Lost, Malformed, NoOutput
from rejoin_client.events import (
    Data,
    Error,
    Event,
    MessageMetadata,
    ResetStep,
    Restarted,
    Start,
    StartStep,
    TextDelta,
    ToolApprovalRequest,
    ToolInputAvailable,
    decode,
)
from rejoin_client.transport import CONNECTION_ERRORS, Backoff, HttpTransport, Request

UI = {"ui": "7"}
"""In the query of every stream: this client knows the chunk types of AI SDK 7."""
_DONE = b"[DONE]"


class Answer:
    """The events of an answer: iterate over it once.

    It closes at its end, at the end of `async with`, or by `aclose`. Closing it does not stop the run.

    Iteration raises `Refused` if the server refuses the stream, and `Lost` if no connection succeeds within
    `Retry.stream_retry_for_s`, or if it was closed or cancelled before. It never ends before the answer is
    complete.
    """

    run: str
    """The run's id, for `client.executions`."""
    session: str
    cursor: str
    """The id of the last event that iteration has returned; empty before the first one."""
    breaks: int
    """How often the connection broke."""
    complete: bool
    """Whether iteration has reached the end of the answer."""

    def __init__(
        self, transport: HttpTransport, first: Request, backoff: Backoff, response: aiohttp.ClientResponse
    ) -> None:
        self._transport = transport
        self._first = first
        self._backoff = backoff
        self._response = response
        self._restarted = False
        self._calls: dict[str, ToolInputAvailable] = {}
        self._events = self._read()
        self.run = response.headers.get("x-workflow-run-id", "")
        self.session = unquote(response.headers.get("X-Thread-Id", ""))
        self.cursor = ""
        self.breaks = 0
        self.complete = False

    @classmethod
    async def open(
        cls, transport: HttpTransport, first: Request, cursor: str | None = None
    ) -> "Answer | None":
        """Request an answer, or the events after a cursor. None if the server has no stream for it.

        If the log no longer has the cursor, `first` is sent again without it.
        """
        first = msgspec.structs.replace(first, query={**first.query, **UI})
        backoff = Backoff(transport.retry, transport.retry.stream_retry_for_s)
        restarted = False
        try:
            response = await transport.open(_after(first, cursor), backoff)
        except Gone:
            if cursor is None:
                raise
            response, restarted = await transport.open(first, backoff), True
        if not _is_stream(response):
            response.release()
            return None
        answer = cls(transport, first, backoff, response)
        answer._restarted = restarted
        answer.cursor = "" if restarted else cursor or ""
        return answer

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            if self.complete:
                raise
            raise Lost(f"the answer was closed before its end; its cursor is {self.cursor!r}") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection. The run continues."""
        await self._events.aclose()
        self._response.close()

    async def text(self) -> str:
        """Read to the end. Returns the text, without that of steps that were reset."""
        pieces: list[str] = []
        step_start = 0
        async with self:
            async for event in self:
                match event:
                    case TextDelta(delta=delta):
                        pieces.append(delta)
                    case StartStep():
                        step_start = len(pieces)
                    case ResetStep():
                        del pieces[step_start:]
                    case Restarted():
                        pieces.clear()
                    case _:
                        pass
        return "".join(pieces)

    @overload
    async def output(self) -> Any: ...
    @overload
    async def output[T](self, type: type[T]) -> T: ...
    async def output(self, type: Any = None) -> Any:
        """Read to the end. Returns the typed answer of an agent with an output type: as an instance of `type`
        (a msgspec struct, dataclass, `TypedDict` or pydantic model), or as JSON values.

        Raises `NoOutput` if the answer ends without one, `Malformed` if the answer does not fit `type`, and
        as the iteration.
        """
        value: Any = None
        state, error = "", "the answer has no output"
        async with self:
            async for event in self:
                match event:
                    case Data(type="data-output", data=data):
                        value = data
                    case (
                        Start(message_metadata=dict() as metadata)
                        | MessageMetadata(message_metadata=dict() as metadata)
                    ):
                        state = metadata.get("outputState", state)
                    case Error(error_text=text):
                        error = text
                    case Restarted():
                        state = ""
                    case _:
                        pass
        if state != "done":
            raise NoOutput(error)
        return value if type is None else _convert(value, type)

    async def _read(self) -> AsyncGenerator[Event]:
        if self._restarted:
            yield Restarted()
        while True:
            async with aclosing(self._frames()) as frames:
                async for cursor, data in frames:
                    if data == _DONE:
                        self.complete = True
                        self._response.close()
                        return
                    self.cursor = cursor or self.cursor
                    yield self._with_call(decode(data))
            self.breaks += 1
            await self._backoff.wait(Lost(f"the stream of {self.run} broke"))
            is_continued = await self._reconnect()
            if self._response.status == HTTPStatus.NO_CONTENT:  # the run has ended with the last event
                self.complete = True
                self._response.close()
                return
            if not is_continued:
                yield Restarted()

    def _with_call(self, event: Event) -> Event:
        """The event; a question with the tool and the arguments of its call."""
        match event:
            case ToolInputAvailable():
                self._calls[event.tool_call_id] = event
            case ToolApprovalRequest(tool_call_id=id) if (call := self._calls.get(id)) is not None:
                return msgspec.structs.replace(event, tool_name=call.tool_name, input=call.input)
            case _:
                pass
        return event

    async def _reconnect(self) -> bool:
        """Continue after the last event, and return True. Else start again with the first one: False."""
        if self.cursor:
            try:
                request = _after(self._run_stream(), self.cursor)
                self._response = await self._transport.open(request, self._backoff)
            except Gone:
                pass
            else:
                return True
        had_no_event, self.cursor = not self.cursor, ""
        request = self._run_stream() if self._first.method == "GET" else self._first
        self._response = await self._transport.open(request, self._backoff)
        if not _is_stream(self._response):
            self._response.release()
            raise Lost("the log no longer has the answer; the history has it")
        return had_no_event

    def _run_stream(self) -> Request:
        """The stream of this run. The session's stream may be that of a newer run."""
        query = {name: value for name, value in self._first.query.items() if name in {"follow", *UI}}
        # By the API that the answer comes from: the APIs send different operations.
        is_run_api = self._first.path.startswith("/run/")
        path = stream_path(self.run) if is_run_api else f"/api/chat/{quote(self.run, safe='')}/stream"
        return Request(method="GET", path=path, headers=self._first.headers, query=query)

    async def _frames(self) -> AsyncGenerator[tuple[str, bytes]]:
        """Cursor and data of each event of this response, until the connection ends or breaks."""
        rest = b""
        try:
            async for received in self._response.content.iter_any():
                *blocks, rest = (rest + received).split(b"\n\n")
                if blocks:  # a comment, too, shows that the server is alive
                    self._backoff.reset()
                for frame in _parse(blocks):
                    yield frame
        except CONNECTION_ERRORS:
            pass
        self._response.close()


def _convert(value: Any, type: Any) -> Any:
    is_pydantic = hasattr(type, "model_validate")
    try:
        return type.model_validate(value) if is_pydantic else msgspec.convert(value, type)
    except ValueError as fault:
        raise Malformed(f"the answer is no {getattr(type, '__name__', type)}: {fault}") from fault


def stream_path(run: str) -> str:
    """The path of a run's stream."""
    return f"/run/api/executions/{quote(run, safe='')}/stream"


def _after(request: Request, cursor: str | None) -> Request:
    if not cursor:
        return request
    headers: Mapping[str, str] = {**request.headers, "Last-Event-ID": cursor}
    return msgspec.structs.replace(request, headers=headers)


def _is_stream(response: aiohttp.ClientResponse) -> bool:
    return response.status != HTTPStatus.NO_CONTENT and response.content_type == "text/event-stream"


def _parse(blocks: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Id and data of each server-sent event. Comments are skipped."""
    for block in blocks:
        cursor, data = "", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"id":
                cursor = value.strip().decode()
            elif field == b"data":
                data.append(value.removeprefix(b" "))
        if data:
            yield cursor, b"\n".join(data)
