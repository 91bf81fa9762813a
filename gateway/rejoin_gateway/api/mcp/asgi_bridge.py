"""Forwards one aiohttp request to an ASGI application, for a library that has only an ASGI interface.

The application runs in the request's own task, which a disconnect of the client cancels once the response
has begun; `receive` returns `http.disconnect` at the end of the response. A gateway that stops breaks the
response like any stream. The caller has read the body already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from rejoin_gateway.http.gateway_service import SERVICE
from rejoin_gateway.http.response import begin_stream

type Message = MutableMapping[str, Any]
type Application = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]

AIOHTTP_HEADERS = frozenset({b"content-length", b"connection", b"transfer-encoding"})
"""Headers that aiohttp writes itself."""


async def forward_request(
    application: Application,
    request: web.Request,
    body: bytes,
    *,
    scope_fields: Mapping[str, Any],
    headers: Mapping[str, str],
) -> web.StreamResponse:
    """The application's response. `headers` are added to successful responses, `scope_fields` to the ASGI
    scope.
    """
    call = _AsgiCall(request, body, headers)
    streams, transport = request.app[SERVICE].streams, request.transport
    if transport is not None:  # else the client has left, and its request is carried out all the same
        streams.add(transport)
    try:
        await application(_scope(request, scope_fields), call.receive, call.send)
    finally:
        if transport is not None:
            streams.discard(transport)
    return call.response or web.Response(status=500)


def _scope(request: web.Request, scope_fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": f"{request.version.major}.{request.version.minor}",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.rel_url.raw_path.encode(),
        "query_string": request.rel_url.raw_query_string.encode(),
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.raw_headers],
        "client": None,
        "server": None,
        **scope_fields,
    }


class _AsgiCall:
    """The functions `receive` and `send` of an ASGI application, for one request."""

    def __init__(self, request: web.Request, body: bytes, headers: Mapping[str, str]) -> None:
        self.response: web.StreamResponse | None = None
        self._request = request
        self._body: bytes | None = body
        self._headers = headers
        self._start: Message | None = None
        self._is_over = asyncio.Event()

    async def receive(self) -> Message:
        """The body at first; then `http.disconnect`, once the response has ended."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._is_over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """The head, then chunks of the body. Does nothing if the client is gone."""
        if self._is_over.is_set():
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        try:
            await self._write(body, more=more)
        except ConnectionError:
            self._is_over.set()
        if not more:
            self._is_over.set()

    async def _write(self, body: bytes, *, more: bool) -> None:
        if self.response is None:
            if self._start is None:
                raise RuntimeError("the ASGI application sent a body before http.response.start")
            status, headers = self._start["status"], self._head(self._start)
            if not more:
                self.response = web.Response(status=status, headers=headers, body=body)
                return
            self.response = web.StreamResponse(status=status, headers=headers)
            await begin_stream(self._request, self.response)
        if body:
            await self.response.write(body)
        if not more:
            await self.response.write_eof()

    def _head(self, start: Message) -> CIMultiDict[str]:
        own = [
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in start["headers"]
            if name.lower() not in AIOHTTP_HEADERS
        ]
        is_success = start["status"] < 300  # noqa: PLR2004
        return CIMultiDict([*own, *(self._headers.items() if is_success else ())])
