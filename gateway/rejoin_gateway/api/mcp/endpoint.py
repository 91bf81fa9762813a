"""MCP (streamable HTTP): an agent as the one tool `send-query-to-agent` of an MCP server.

The protocol is the official SDK's, without state. What is ours is what must be the same at every gateway.
Until 2025-11-25 `initialize` opens a session, which is a chat session: `Mcp-Session-Id` is its id, and its
requests are found by the names that the client gave them, wherever it says that they are cancelled. A closed
connection cancels nothing there. From 2026-07-28 on there are no sessions: a call brings the id of its
conversation or begins one, and is cancelled by closing its response.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Literal

import msgspec
from aiohttp import web
from rejoin_adapters.ports.mcp_sessions import McpSessions
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import SessionId, session_id
from rejoin_protocol.lifecycle import BUSY

from rejoin_gateway.api.mcp import asgi_bridge
from rejoin_gateway.api.mcp.call_context import CALLED, McpCall, request_name
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.session import Session
from rejoin_gateway.http.cors import is_from_trusted_page
from rejoin_gateway.http.disconnect import cancel_on_disconnect, interrupt_run
from rejoin_gateway.http.request import agent_of, read_body
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import AGENT_HEADER, Parameters, Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL, SERVICE

SESSION = "Mcp-Session-Id"
VERSION = "MCP-Protocol-Version"
WITH_SESSIONS = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
"""The versions of the protocol that have them. Who names none means one of these."""
INVALID_REQUEST, INVALID_PARAMS, SESSION_UNKNOWN = -32600, -32602, -32001


class McpEndpoint:
    """What all requests share. Made by `opened`."""

    def __init__(self, dialogues: McpSessions) -> None:
        self.dialogues = dialogues
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        self._sdk: asgi_bridge.Application | None = None

    async def sdk(self) -> asgi_bridge.Application:
        """The SDK's application. The first one to ask waits until it is imported, seconds."""
        self._wanted.set()
        await self._ready.wait()
        assert self._sdk is not None  # noqa: S101 - for the type checker
        return self._sdk

    async def run(self) -> None:
        """The SDK's tasks, which live and end in this one."""
        await self._wanted.wait()
        querying = await asyncio.to_thread(importlib.import_module, "rejoin_gateway.api.mcp.tool")
        transport = querying.build_transport()
        async with transport.run():
            self._sdk = transport.handle_request
            self._ready.set()
            await asyncio.Event().wait()


ENDPOINT: web.AppKey[McpEndpoint] = web.AppKey("mcp", McpEndpoint)


@asynccontextmanager
async def open_endpoint(dialogues: McpSessions) -> AsyncIterator[McpEndpoint]:
    """An endpoint, for as long as the context."""
    endpoint = McpEndpoint(dialogues)
    async with run_alongside(endpoint.run()):
        yield endpoint


# ------------------------------------------------------------------------------------- over HTTP


async def handle_message(request: web.Request) -> web.StreamResponse:
    """One message of a client."""
    if not is_from_trusted_page(request, request.app[SERVICE].cors):
        return _refusal(HTTPStatus.FORBIDDEN, INVALID_REQUEST, "pages of this origin may not call")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType
    body = await read_body(request)
    if VERSION in request.headers and request.headers[VERSION] not in WITH_SESSIONS:
        return await _alone(request, body)
    message = _message(body)
    match message:
        case {
            "method": "initialize",
            "id": str() | int(),
            "params": {"protocolVersion": str(), "capabilities": dict(), "clientInfo": dict()},
        }:
            return await _open(request, body)
        case {"method": "initialize"} | None:
            return await _in_session(request, body, None)  # the SDK says what is wrong with it
        case _:
            pass
    session = await _session(request)
    if session is None:
        return _lost(request, message.get("id"))
    match message:
        case {"method": "notifications/cancelled", "params": {"requestId": str() | int() as named}}:
            await _cancel(request, session, named)
            return web.Response(status=HTTPStatus.ACCEPTED)
        case _:
            return await _in_session(request, body, session)


async def end_session(request: web.Request) -> web.StreamResponse:
    """The client has done with its session: it is no place for requests any more. What was said in it, and
    what still waits for a decision, stays.
    """
    session = await _session(request)
    if session is None:
        return _lost(request, None)
    current = await session.backend.store.current_run(session.owner, session.id)
    await request.app[ENDPOINT].dialogues.end(session.owner, session.id)
    if current is not None and current.state in BUSY:
        await interrupt_run(session, current.id)
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def _open(request: web.Request, body: bytes) -> web.StreamResponse:
    agent, owner = agent_of(request), request[PRINCIPAL].owner
    backend, dialogues = request.app[SERVICE].backend, request.app[ENDPOINT].dialogues
    if await backend.agents.find(agent) is None:
        raise NotFound(f"there is no agent {agent!r}")
    id = SessionId(message_input.new_session_id())
    await dialogues.open(owner, id, agent)
    response = await _in_session(request, body, backend.agent(agent, owner).session(id), {SESSION: id})
    if SESSION not in response.headers:  # the SDK did not like it
        await dialogues.end(owner, id)
    return response


async def _in_session(
    request: web.Request, body: bytes, session: Session | None, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    return await _through(McpCall(request, session), body, headers or {})


async def _alone(request: web.Request, body: bytes) -> web.StreamResponse:
    """A request without a session. Whoever closes its response does not want it answered."""
    called = McpCall(request, None, alone=True)
    async with cancel_on_disconnect(request, lambda: called.unanswered):
        return await _through(called, body, {})


async def _through(called: McpCall, body: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    sdk = await called.request.app[ENDPOINT].sdk()
    return await asgi_bridge.forward_request(
        sdk, called.request, body, extra={CALLED: called}, headers=headers
    )


def _message(body: bytes) -> dict[str, Any] | None:
    """What can be told of a message before the SDK looks at it."""
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


async def _session(request: web.Request) -> Session | None:
    """The session that a request is made in, if it is open and the caller's."""
    principal = request[PRINCIPAL]
    try:
        id = session_id(request.headers.get(SESSION, ""))
    except Invalid:
        return None
    agent = await request.app[ENDPOINT].dialogues.find_agent(principal.owner, id)
    if agent is None or principal.agent not in (None, agent):
        return None
    return (
        request.app[SERVICE].backend.agent(agent, principal.owner).session(id, ContextInput(request.headers))
    )


def _lost(request: web.Request, id: Any) -> web.Response:
    if SESSION not in request.headers:
        text = f"the header {SESSION} is missing: `initialize` opens a session"
        return _refusal(HTTPStatus.BAD_REQUEST, INVALID_PARAMS, text, id)
    return _refusal(HTTPStatus.NOT_FOUND, SESSION_UNKNOWN, "there is no such session: `initialize` again", id)


def _refusal(status: HTTPStatus, code: int, text: str, id: Any = None) -> web.Response:
    return json_response({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}, status)


async def _cancel(request: web.Request, session: Session, named: str | int) -> None:
    """What has no run, or has one that is over, is not there to be cancelled."""
    run = await request.app[ENDPOINT].dialogues.find_run(session.owner, session.id, request_name(named))
    if run is not None:
        await interrupt_run(session, run)


class RpcError(msgspec.Struct, frozen=True):
    """Why a message was refused."""

    code: int
    message: str
    data: Any = None


class RpcErrorResponse(msgspec.Struct, frozen=True):
    """A refusal as JSON-RPC says it."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    error: RpcError


_MESSAGE = {
    "type": "object",
    "description": "A JSON-RPC message of MCP.",
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer"]},
        "method": {"type": "string"},
        "params": {"type": "object"},
    },
    "required": ["jsonrpc"],
}
_ASKED: Parameters = {
    SESSION: "The session that `initialize` has opened.",
    VERSION: "The version of the protocol that was agreed on.",
}
_REFUSED = dict.fromkeys((400, 403, 404), RpcErrorResponse)
_POSTED = RouteDoc(
    "MCP: one message of a client",
    _MESSAGE,
    {200: (dict[str, Any], "text/event-stream"), 202: None, **_REFUSED, 406: RpcErrorResponse},
    headers={**_ASKED, **AGENT_HEADER},
    tag="mcp",
    example={
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "docs", "version": "1"},
        },
    },
)
_ENDED = RouteDoc("MCP: end the session", None, {204: None, **_REFUSED}, headers=_ASKED, tag="mcp")
ROUTES = tuple(
    Route(method, path, handler, Scope.CHAT, says)
    for path in ("/run/v1/mcp", "/v1/mcp")
    for method, handler, says in (("POST", handle_message, _POSTED), ("DELETE", end_session, _ENDED))
)
