"""The MCP server's one tool: what it says of itself, and how a call of it becomes a run and a result.

Owns the words that a caller's model reads. A call is a message in its session's conversation; without a
session it says which conversation, or begins one. What goes wrong with a call is its result, in words, as
the protocol has it; only what is no call at all is an error of the protocol.
"""

import asyncio
import secrets
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import mcp_types as types
import msgspec
from aiohttp import web
from mcp import MCPError
from mcp.server import Server, ServerRequestContext
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from rejoin_adapters.ports.mcp_sessions import request_key
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log.record import View

from rejoin_gateway.api.mcp.call_context import CALLED, McpCall, request_name
from rejoin_gateway.core import message_input
from rejoin_gateway.core.session import Session
from rejoin_gateway.http import errors
from rejoin_gateway.http.request import agent_of, session_of
from rejoin_gateway.http.service import SERVICE
from rejoin_gateway.streaming.collect import CollectedAnswer, collect_answer
from rejoin_gateway.streaming.replay import Replay

TOOL = "send-query-to-agent"
VIEW = View(operations=True, v7=True, v6=True)
PROGRESS_PERIOD_S = 1.0
"""How often progress is told that has nothing to say but that."""

type Context = ServerRequestContext[Any, Any]


class ToolArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The tool's arguments."""

    query: str
    conversation_id: str | None = None


def build_transport() -> StreamableHTTPSessionManager:
    """The SDK's server behind its HTTP transport, which keeps nothing between two requests. To be run."""
    server: Server[Any] = Server(
        "rejoin",
        version=version("rejoin"),
        get_tool_input_schema=lambda name: _schema(alone=True) if name == TOOL else None,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    return StreamableHTTPSessionManager(server, stateless=True)


async def list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    """The tool, as the agent of the request describes itself."""
    called = _called(context)
    agent = agent_of(called.request) if called.session is None else called.session.agent
    entry = await called.request.app[SERVICE].backend.agents.find(agent)
    about = f" {entry.description}" if entry is not None and entry.description else ""
    tool = types.Tool(
        name=TOOL,
        description=f"Send a query to the agent {agent} and get its answer.{about}",
        input_schema=_schema(alone=called.alone),
    )
    return types.ListToolsResult(tools=[tool])


def _schema(*, alone: bool) -> dict[str, Any]:
    properties = {"query": {"type": "string", "description": "What to ask or to tell the agent."}}
    if alone:
        properties["conversationId"] = {
            "type": "string",
            "description": "To go on with the conversation of an earlier result; a new one if unsaid.",
        }
    return {"type": "object", "properties": properties, "required": ["query"], "additionalProperties": False}


def _called(context: Context) -> McpCall:
    request: Any = context.request
    called: McpCall = request.scope[CALLED]
    if called.session is None and not called.alone:
        raise MCPError(types.INVALID_PARAMS, "a request is made in a session")
    return called


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    """A call, to the end of its run or to its next question."""
    if params.name != TOOL:
        raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name[:64]!r}, only {TOOL}")
    called = _called(context)
    try:
        query = _query(params.arguments or {}, called)
        session = called.session or _conversation(called.request, query)
        return await _ask(context, called, session, query.query)
    except errors.MAPPED_ERRORS as fault:
        return _result(str(fault), failed=True)


def _query(arguments: Any, called: McpCall) -> ToolArguments:
    try:
        query = msgspec.convert(arguments, ToolArguments)
    except msgspec.ValidationError as fault:
        raise Invalid(f"the arguments do not fit: {fault}") from fault
    if not query.query.strip():
        raise Invalid("the arguments do not fit: the query is empty")
    if query.conversation_id is not None and not called.alone:
        raise Invalid("the arguments do not fit: the session is the conversation, there is no conversationId")
    return query


def _conversation(request: web.Request, query: ToolArguments) -> Session:
    return session_of(request, query.conversation_id or message_input.new_session_id())


async def _ask(context: Context, called: McpCall, session: Session, text: str) -> types.CallToolResult:
    message = message_input.ClientMessage(
        message_input.new_message_id(None), "user", [{"type": "text", "text": text}]
    )
    name = request_name(context.request_id if context.request_id is not None else "")
    replay = await session.send(
        message_input.build_user_message(message, "/query"), VIEW, key=request_key(name, secrets.token_hex(8))
    )
    called.unanswered = session, replay.run.id
    progress = ProgressReporter(context)
    answer = await collect_answer(replay, progress.heard)
    called.unanswered = None
    return _told(replay, answer, aborted=progress.aborted)


class ProgressReporter:
    """Tells a caller who wants to know how far its call is: what is being done, else that something is."""

    def __init__(self, context: Context) -> None:
        self.aborted = False
        self._context = context
        self._events = 0
        self._told_s = 0.0

    async def heard(self, events: Sequence[Chunk]) -> None:
        """The events that came, or none after a silence."""
        now_s = asyncio.get_running_loop().time()
        self._events += len(events)
        self.aborted = self.aborted or any(isinstance(event, chunks.Abort) for event in events)
        words = [said for event in events if (said := _said(event)) is not None]
        if not words and events and now_s - self._told_s < PROGRESS_PERIOD_S:
            return
        self._told_s = now_s
        self._events += not events  # it has to grow
        await self._context.session.report_progress(self._events, None, words[-1] if words else None)


def _said(event: Chunk) -> str | None:
    """What an event says in words about what is going on."""
    match event:
        case chunks.ToolInputAvailable(tool_name=name):
            return f"Calls {name}"
        case chunks.Data(type="data-summary" | "data-operation", data={"label": str(label)}):
            return label
        case _:
            return None


def _told(replay: Replay, answer: CollectedAnswer, *, aborted: bool) -> types.CallToolResult:
    about = {"conversationId": replay.run.session, "runId": replay.run.id}
    if answer.error is not None:
        return _result(answer.error, about, failed=True)
    if aborted:
        return _result("The run was interrupted.", about, failed=True)
    waiting = [part for part in answer.calls if part.get("state") == "approval-requested"]
    if waiting:
        return _result(_asks(replay, answer, waiting), about | {"status": "suspended"})
    return _result(answer.text or "The agent has done its work and said nothing.", about)


def _asks(replay: Replay, answer: CollectedAnswer, waiting: Sequence[dict[str, Any]]) -> str:
    """What is waited for, and what has to be done about it, for a person and for a model."""
    lines = [answer.text] if answer.text else []
    lines.append(
        "The agent waits for a person's decision and has not finished. Nothing of the following was done yet:"
    )
    for part in waiting:
        tool = part.get("toolName") or part["type"].removeprefix("tool-")
        input = msgspec.json.encode(part.get("input")).decode()
        route = f"/run/api/executions/{replay.run.id}/approvals/{part['toolCallId']}"
        lines.append(
            f"- {tool} {input}\n"
            f"  approvalId {part['approval']['id']}, toolCallId {part['toolCallId']}\n"
            f'  decide: POST {route} {{"approved": true}} or {{"approved": false, "reason": "…"}}'
        )
    lines.append(
        f"The credential needs the scope approve. Then GET /run/api/executions/{replay.run.id} says how the "
        f"run stands, and a further query in the same conversation ({replay.run.session}) knows the outcome."
    )
    return "\n".join(lines)


def _result(text: str, about: dict[str, Any] | None = None, *, failed: bool = False) -> types.CallToolResult:
    content = types.TextContent(type="text", text=text)
    if about is None:
        return types.CallToolResult(content=[content], is_error=failed)
    return types.CallToolResult(content=[content], is_error=failed, _meta=about)
