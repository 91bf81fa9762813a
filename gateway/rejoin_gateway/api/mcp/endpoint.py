"""MCP over streamable HTTP: an agent as the one tool `send-query-to-agent` of an MCP server.

The official SDK implements the protocol, without state. Kept here is what must hold at every gateway. Up to
protocol version 2025-11-25 `initialize` opens an MCP session, which is a chat session: `Mcp-Session-Id` is
its id. Requests are stored under the names that the client gave them, so that they can be cancelled at any
gateway. A closed connection cancels nothing. From version 2026-07-28 on there are no sessions: a call names
its conversation or starts one, and closing the response cancels it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from aiohttp import web

from rejoin_adapters.extras import is_installed, needs_extra
from rejoin_adapters.ports.mcp_sessions import McpSessions
from rejoin_adapters.process.background import run_alongside
from rejoin_gateway.api.mcp import asgi_bridge
from rejoin_gateway.api.mcp.call_context import SCOPE_KEY, McpCall, request_name
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.core import message_input
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http.cors import is_from_trusted_page
from rejoin_gateway.http.disconnect import cancel_on_disconnect, interrupt_run
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE
from rejoin_gateway.http.request import agent_of, decode_json, read_body
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import AGENT_HEADER, EVENT_STREAM, Parameters, Route, RouteDoc
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import SessionId, session_id
from rejoin_protocol.lifecycle import BUSY

if TYPE_CHECKING:
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

SESSION_HEADER = "Mcp-Session-Id"
VERSION = "MCP-Protocol-Version"
WITH_SESSIONS = frozenset({"2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"})
"""Protocol versions with sessions. A request without a version has one of these."""
INVALID_REQUEST, INVALID_PARAMS, INTERNAL_ERROR, SESSION_UNKNOWN = -32600, -32602, -32603, -32001


class McpEndpoint:
    """The SDK's application and the open MCP sessions. Created by `open_endpoint`."""

    def __init__(self, sessions: McpSessions) -> None:
        self.sessions = sessions
        self.has_sdk = is_installed("mcp")
        self._is_wanted = asyncio.Event()
        self._is_ready = asyncio.Event()
        self._sdk: asgi_bridge.Application | None = None

    async def sdk(self) -> asgi_bridge.Application:
        """The SDK's application. The first call waits seconds, until the SDK is imported."""
        self._is_wanted.set()
        await self._is_ready.wait()
        assert self._sdk is not None  # noqa: S101 - for the type checker
        return self._sdk

    async def run(self) -> None:
        """Run the SDK's tasks, from the first request to the end of the gateway."""
        await self._is_wanted.wait()
        transport = await asyncio.to_thread(_build_transport)
        async with transport.run():
            self._sdk = transport.handle_request
            self._is_ready.set()
            await asyncio.Event().wait()


def _build_transport() -> "StreamableHTTPSessionManager":
    from rejoin_gateway.api.mcp import chat_tool  # the SDK takes seconds to import

    return chat_tool.build_transport()


ENDPOINT: web.AppKey[McpEndpoint] = web.AppKey("mcp", McpEndpoint)


@asynccontextmanager
async def open_endpoint(sessions: McpSessions) -> AsyncIterator[McpEndpoint]:
    """An endpoint whose SDK runs until the context ends."""
    endpoint = McpEndpoint(sessions)
    async with run_alongside(endpoint.run()):
        yield endpoint


# ------------------------------------------------------------------------------------- over HTTP


async def handle_message(request: web.Request) -> web.StreamResponse:
    """One JSON-RPC message of a client."""
    if not request.app[ENDPOINT].has_sdk:
        return _sdk_missing()
    if not is_from_trusted_page(request, request.app[SERVICE].cors):
        return _error_response(HTTPStatus.FORBIDDEN, INVALID_REQUEST, "pages of this origin may not call")
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType
    message = _decode_message(request, await read_body(request))
    body = await read_body(request)  # as it was decoded, for the SDK
    if VERSION in request.headers and request.headers[VERSION] not in WITH_SESSIONS:
        return await _handle_without_session(request, body)
    match message:
        case {
            "method": "initialize",
            "id": str() | int(),
            "params": {"protocolVersion": str(), "capabilities": dict(), "clientInfo": dict()},
        }:
            return await _initialize(request, body)
        case {"method": "initialize"} | None:
            return await _handle_in_session(request, body, None)  # malformed: the SDK renders the error
        case _:
            pass
    session = await _find_session(request)
    if session is None:
        return _session_missing(request, message.get("id"))
    match message:
        case {"method": "notifications/cancelled", "params": {"requestId": str() | int() as id}}:
            await _cancel(request, session, id)
            return web.Response(status=HTTPStatus.ACCEPTED)
        case _:
            return await _handle_in_session(request, body, session)


async def end_session(request: web.Request) -> web.StreamResponse:
    """Close the MCP session and interrupt its active run. The chat session and its open approvals stay."""
    if not request.app[ENDPOINT].has_sdk:
        return _sdk_missing()
    session = await _find_session(request)
    if session is None:
        return _session_missing(request, None)
    current = await session.current_run()
    await request.app[ENDPOINT].sessions.end(session.owner, session.id)
    if current is not None and current.state in BUSY:
        await interrupt_run(session, current.id)
    return web.Response(status=HTTPStatus.NO_CONTENT)


async def _initialize(request: web.Request, body: bytes) -> web.StreamResponse:
    agent, owner = agent_of(request), request[PRINCIPAL].owner
    backend, mcp_sessions = request.app[SERVICE].backend, request.app[ENDPOINT].sessions
    await backend.agent(agent)  # raises `NotFound`
    id = SessionId(message_input.new_session_id())
    await mcp_sessions.open(owner, id, agent)
    session = AgentSession(backend, owner, id, agent)
    response = await _handle_in_session(request, body, session, {SESSION_HEADER: id})
    if SESSION_HEADER not in response.headers:  # the SDK refused the request
        await mcp_sessions.end(owner, id)
    return response


async def _handle_in_session(
    request: web.Request, body: bytes, session: AgentSession | None, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    return await _forward(McpCall(request, session), body, headers or {})


async def _handle_without_session(request: web.Request, body: bytes) -> web.StreamResponse:
    """A request of a protocol version without sessions: closing the response cancels its run."""
    call = McpCall(request, None, alone=True)
    async with cancel_on_disconnect(request, lambda: call.active_run):
        return await _forward(call, body, {})


async def _forward(call: McpCall, body: bytes, headers: Mapping[str, str]) -> web.StreamResponse:
    sdk = await call.request.app[ENDPOINT].sdk()
    return await asgi_bridge.forward_request(
        sdk, call.request, body, scope_fields={SCOPE_KEY: call}, headers=headers
    )


def _decode_message(request: web.Request, body: bytes) -> dict[str, Any] | None:
    """The message; None if it is no JSON object, which the SDK then reports."""
    try:
        message = decode_json(request, body, object)
    except Invalid:
        return None
    return message if isinstance(message, dict) else None


async def _find_session(request: web.Request) -> AgentSession | None:
    """The session that the header names, if it is open and the caller's."""
    principal = request[PRINCIPAL]
    try:
        id = session_id(request.headers.get(SESSION_HEADER, ""))
    except Invalid:
        return None
    agent = await request.app[ENDPOINT].sessions.find_agent(principal.owner, id)
    if agent is None or principal.agent not in (None, agent):
        return None
    backend, context = request.app[SERVICE].backend, ContextInput(request.headers)
    return AgentSession(backend, principal.owner, id, agent, context)


def _session_missing(request: web.Request, id: Any) -> web.Response:
    if SESSION_HEADER not in request.headers:
        text = f"the header {SESSION_HEADER} is missing: `initialize` opens a session"
        return _error_response(HTTPStatus.BAD_REQUEST, INVALID_PARAMS, text, id)
    return _error_response(
        HTTPStatus.NOT_FOUND, SESSION_UNKNOWN, "there is no such session: `initialize` again", id
    )


def _sdk_missing() -> web.Response:
    return _error_response(
        HTTPStatus.NOT_IMPLEMENTED, INTERNAL_ERROR, needs_extra("MCP at this gateway", "mcp")
    )


def _error_response(status: HTTPStatus, code: int, text: str, id: Any = None) -> web.Response:
    return json_response({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text}}, status)


async def _cancel(request: web.Request, session: AgentSession, id: str | int) -> None:
    """Interrupt the run of the request `id`. A request without an active run is ignored."""
    run = await request.app[ENDPOINT].sessions.find_run(session.owner, session.id, request_name(id))
    if run is not None:
        await interrupt_run(session, run)


class RpcError(msgspec.Struct, frozen=True):
    """Why a message was refused (JSON-RPC 2.0)."""

    code: int
    message: str
    data: Any = None


class RpcErrorResponse(msgspec.Struct, frozen=True):
    """An error response of JSON-RPC 2.0."""

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
_HEADERS: Parameters = {
    SESSION_HEADER: "The session that `initialize` opened; it returns the id in this header.",
    VERSION: "The protocol version that `initialize` returned.",
}
_ERRORS = dict.fromkeys((400, 403, 404, 501), RpcErrorResponse)
_MESSAGE_DOC = RouteDoc(
    "Send an MCP message",
    description="The endpoint for MCP clients (streamable HTTP). The server has one tool, "
    "`send-query-to-agent`, which sends a query to the agent and returns its answer. Configure a client with "
    "this URL; there is no need to call it by hand.",
    body=_MESSAGE,
    responses={200: (dict[str, Any], EVENT_STREAM), 202: None, **_ERRORS, 406: RpcErrorResponse},
    headers={**_HEADERS, **AGENT_HEADER},
    takes_context=True,
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
_END_DOC = RouteDoc(
    "End an MCP session",
    description="Closes the MCP session and interrupts its active run. The conversation stays.",
    responses={204: None, **_ERRORS},
    headers=_HEADERS,
    tag="mcp",
)
ROUTES = tuple(
    Route(method, path, handler, Scope.CHAT, says)
    for path in ("/run/v1/mcp", "/v1/mcp")
    for method, handler, says in (("POST", handle_message, _MESSAGE_DOC), ("DELETE", end_session, _END_DOC))
)
