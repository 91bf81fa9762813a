"""The four session routes of an agent as an ASGI application: `app.mount("/support", rejoin.asgi(…))`."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any
from urllib.parse import quote

from aiohttp import web

from rejoin_adapters.process.background import run_alongside
from rejoin_adapters.store_types import Owner
from rejoin_gateway import embed
from rejoin_gateway.asgi.memory_connection import SCOPE, MemoryConnection
from rejoin_gateway.asgi.response_parser import ResponseParser
from rejoin_protocol.ids import agent_name

type Scope = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
type Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
type FindBackend = Callable[[Scope], embed.Rejoin]
type FindOwner = Callable[[Scope], Owner | Awaitable[Owner]]

LAST_CHUNK = b"0\r\n\r\n"
PATH_CHARS = "/-._~!$&'()*+,;=:@"
DROPPED_REQUEST_HEADERS = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"expect"}
)
"""Headers of the connection between the client and the ASGI server."""


class BrokenResponse(ConnectionError):
    """The response ends before its end. The ASGI server breaks the client's connection, as it does for every
    error: a client that sees a clean end takes the answer as complete, and one that sees a broken connection
    resumes.
    """


class SessionsApplication:
    """The ASGI application that `asgi` returns."""

    def __init__(self, find_backend: FindBackend, agent: str, find_owner: FindOwner) -> None:
        self._find_backend = find_backend
        self._agent = agent_name(agent)
        self._find_owner = find_owner
        self._served: tuple[embed.Rejoin, web.Server] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request. Also takes the lifespan of an ASGI server, and no web sockets."""
        match scope["type"]:
            case "http":
                await self._respond(scope, receive, send)
            case "lifespan":
                await _live(receive, send)
            case _:
                await send({"type": "websocket.close", "code": 1000})

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = await self._server(self._find_backend(scope))
        connection = MemoryConnection(server(), scope)
        try:
            async with run_alongside(_feed_request(connection, scope, receive)):
                await _send_response(connection, scope["method"], send)
        finally:
            connection.leave()

    async def _server(self, backend: embed.Rejoin) -> web.Server:
        """The server of the aiohttp application. Made anew for another backend: the application restarted."""
        if self._served is None or self._served[0] is not backend:
            routes = embed.routes(backend, self._agent, owner=self._owner)
            runner = web.AppRunner(routes, handler_cancellation=True, access_log=None)
            await runner.setup()
            assert runner.server is not None  # noqa: S101 - `setup` has made it
            self._served = (backend, runner.server)
        return self._served[1]

    async def _owner(self, request: web.Request) -> Owner:
        found = self._find_owner(request.get_extra_info(SCOPE))
        return await found if inspect.isawaitable(found) else found


def asgi(
    backend: embed.Rejoin | FindBackend,
    agent: str,
    *,
    owner: FindOwner = lambda _: embed.DEFAULT_OWNER,
) -> SessionsApplication:
    """The routes of `routes` as an ASGI application, to mount anywhere in FastAPI or Starlette.

    `backend` may be a function of the request's ASGI scope, for an application that connects when it
    starts: `lambda scope: scope["state"]["backend"]`. `owner` returns the owner of a request from its scope,
    or raises `Unauthenticated`. Raises `Invalid` for a name that no agent can have.
    """
    find_backend = (lambda _: backend) if isinstance(backend, embed.Rejoin) else backend
    return SessionsApplication(find_backend, agent, owner)


async def _feed_request(connection: MemoryConnection, scope: Scope, receive: Receive) -> None:
    """Pass the request on, then wait for its client's disconnect."""
    has_length = any(name == b"content-length" for name, _ in scope["headers"])
    await connection.feed(b"\r\n".join(_head(scope, has_length=has_length)) + b"\r\n\r\n")
    while (message := await receive())["type"] == "http.request":
        body = message.get("body", b"")
        if body:
            await connection.feed(body if has_length else b"%x\r\n%b\r\n" % (len(body), body))
        if not has_length and not message.get("more_body", False):
            await connection.feed(LAST_CHUNK)
    connection.leave()


def _head(scope: Scope, *, has_length: bool) -> Iterator[bytes]:
    # Frameworks that mount an application leave its prefix in the path, and name it in `root_path`.
    path = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/")) or "/"
    query = scope.get("query_string", b"")
    target = quote(path, safe=PATH_CHARS).encode() + (b"?" + query if query else b"")
    yield b"%b %b HTTP/1.1" % (scope["method"].encode(), target)
    for name, value in scope["headers"]:
        if name not in DROPPED_REQUEST_HEADERS:
            yield b"%b: %b" % (name, value)
    yield b"connection: close"
    if not has_length:
        yield b"transfer-encoding: chunked"


async def _send_response(connection: MemoryConnection, method: str, send: Send) -> None:
    """Returns when aiohttp is done with the request, which is after the last byte, or if the client has left.

    Raises `BrokenResponse`.
    """
    parser = ResponseParser(method)
    while data := await connection.read():
        for message in parser.feed(data):
            await send(message)
    if not parser.complete and not connection.has_left:
        raise BrokenResponse("the response was broken off: its client resumes it")


async def _live(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return
