"""The MCP server's one tool: its description, and how a call becomes a run and a result.

Its texts are read by the model of the calling client. A call sends a message to the session's conversation;
without a session the call names its conversation or starts one. As MCP wants it, a failed call is a result
with `isError`; only what is not a valid call is a protocol error.
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
from rejoin_gateway.api.mcp.call_context import SCOPE_KEY, McpCall, request_name
from rejoin_gateway.api.shared.answers import require_replay
from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.core import message_input
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http import errors
from rejoin_gateway.http.gateway_service import begin_response
from rejoin_gateway.http.request import agent_of, session_of
from rejoin_gateway.streaming.collect import CollectedAnswer, collect_answer
from rejoin_gateway.streaming.replay import Replay
from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.limits import ID_CHARS_MAX, TEXT_BYTES_MAX, Id, Text
from rejoin_protocol.log.record import View

TOOL = "send-query-to-agent"
MCP_VIEW = View(operations=True, v7=True, v6=True)
PROGRESS_INTERVAL_S = 1.0
"""How often progress without a text is reported."""

type Context = ServerRequestContext[Any, Any]


class ToolArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The tool's arguments."""

    query: Text
    conversation_id: Id | None = None


def build_transport() -> StreamableHTTPSessionManager:
    """The SDK's server and its HTTP transport, stateless. The caller runs it."""
    server: Server[Any] = Server(
        "rejoin",
        version=version("rejoin"),
        get_tool_input_schema=lambda name: _schema(alone=True) if name == TOOL else None,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    return StreamableHTTPSessionManager(server, stateless=True)


async def list_tools(context: Context, _: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    """The tool, described by the description of the request's agent."""
    call = _call_of(context)
    agent = agent_of(call.request) if call.session is None else call.session.agent
    entry = await directory_of(call.request).find_agent(agent)
    about = f" {entry.description}" if entry is not None and entry.description else ""
    tool = types.Tool(
        name=TOOL,
        description=f"Send a query to the agent {agent} and get its answer.{about}",
        input_schema=_schema(alone=call.alone),
    )
    return types.ListToolsResult(tools=[tool])


def _schema(*, alone: bool) -> dict[str, Any]:
    properties = {
        "query": {
            "type": "string",
            "maxLength": TEXT_BYTES_MAX,
            "description": "What to ask or tell the agent.",
        }
    }
    if alone:
        properties["conversationId"] = {
            "type": "string",
            "maxLength": ID_CHARS_MAX,
            "description": "Continues the conversation of an earlier result. Without it a new one starts.",
        }
    return {"type": "object", "properties": properties, "required": ["query"], "additionalProperties": False}


def _call_of(context: Context) -> McpCall:
    request: Any = context.request
    call: McpCall = request.scope[SCOPE_KEY]
    if call.session is None and not call.alone:
        raise MCPError(types.INVALID_PARAMS, "the request needs a session")
    return call


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    """Run a call, to the end of its run or to its next approval."""
    if params.name != TOOL:
        raise MCPError(types.INVALID_PARAMS, f"there is no tool {params.name[:64]!r}, only {TOOL}")
    call = _call_of(context)
    try:
        query = _parse_arguments(params.arguments or {}, call)
        session = call.session or _new_or_named_session(call.request, query)
        return await _send_message(context, call, session, query.query)
    except ConnectionResetError:  # the client has left, and the run goes on: nobody reads this
        return _tool_result("the client has left", failed=True)
    except errors.MAPPED_ERRORS as fault:
        return _tool_result(str(fault), failed=True)


def _parse_arguments(arguments: Any, call: McpCall) -> ToolArguments:
    try:
        query = msgspec.convert(arguments, ToolArguments)
    except msgspec.ValidationError as fault:
        raise Invalid(f"the arguments do not fit: {fault}") from fault
    if not query.query.strip():
        raise Invalid("the arguments do not fit: the query is empty")
    if query.conversation_id is not None and not call.alone:
        raise Invalid("the arguments do not fit: the session is the conversation, there is no conversationId")
    return query


def _new_or_named_session(request: web.Request, query: ToolArguments) -> AgentSession:
    return session_of(request, query.conversation_id or message_input.new_session_id())


async def _send_message(
    context: Context, call: McpCall, session: AgentSession, text: str
) -> types.CallToolResult:
    message = message_input.ClientMessage(
        message_input.new_message_id(None), "user", [{"type": "text", "text": text}]
    )
    name = request_name(context.request_id if context.request_id is not None else "")
    sent = await session.send(
        message_input.build_user_message(message, "/query"),
        MCP_VIEW,
        key=request_key(name, secrets.token_hex(8)),
    )
    replay = await require_replay(session, sent, MCP_VIEW)
    call.active_run = session, replay.run.id
    begin_response(call.request)
    progress = ProgressReporter(context)
    answer = await collect_answer(replay, progress.report)
    call.active_run = None
    return _render_result(replay, answer, aborted=progress.aborted)


class ProgressReporter:
    """Reports the progress of a call: what the agent does, or else that it is still working."""

    def __init__(self, context: Context) -> None:
        self.aborted = False
        self._context = context
        self._events = 0
        self._reported_s = 0.0

    async def report(self, events: Sequence[Chunk]) -> None:
        """Report new events. An empty list means that none have come for a while."""
        now_s = asyncio.get_running_loop().time()
        self._events += len(events)
        self.aborted = self.aborted or any(isinstance(event, chunks.Abort) for event in events)
        texts = [text for event in events if (text := _describe_progress(event)) is not None]
        if not texts and events and now_s - self._reported_s < PROGRESS_INTERVAL_S:
            return
        self._reported_s = now_s
        self._events += not events  # MCP: progress has to increase
        await self._context.session.report_progress(self._events, None, texts[-1] if texts else None)


def _describe_progress(event: Chunk) -> str | None:
    """An event as a text for people; None if it has none."""
    match event:
        case chunks.ToolInputAvailable(tool_name=name):
            return f"Calls {name}"
        case chunks.Data(type="data-operation", data={"label": str(label)}):
            return label
        case _:
            return None


def _render_result(replay: Replay, answer: CollectedAnswer, *, aborted: bool) -> types.CallToolResult:
    about = {"conversationId": replay.run.session, "runId": replay.run.id}
    if answer.error is not None:
        return _tool_result(answer.error, about, failed=True)
    if aborted:
        return _tool_result("The run was interrupted.", about, failed=True)
    waiting = [part for part in answer.calls if part.get("state") == "approval-requested"]
    if waiting:
        return _tool_result(_describe_approvals(replay, answer, waiting), about | {"status": "suspended"})
    return _tool_result(answer.text or "The agent has finished without a text.", about)


def _describe_approvals(replay: Replay, answer: CollectedAnswer, waiting: Sequence[dict[str, Any]]) -> str:
    """Which calls wait for an approval and how to decide them, for a person and for a model."""
    lines = [answer.text] if answer.text else []
    lines.append(
        "The agent has not finished: it waits for a person's decision. These calls were not executed yet:"
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
        f"The credential needs the scope approve. Then GET /run/api/executions/{replay.run.id} returns the "
        f"run's state, and a further query in the same conversation ({replay.run.session}) knows the outcome."
    )
    return "\n".join(lines)


def _tool_result(
    text: str, about: dict[str, Any] | None = None, *, failed: bool = False
) -> types.CallToolResult:
    content = types.TextContent(type="text", text=text)
    if about is None:
        return types.CallToolResult(content=[content], is_error=failed)
    return types.CallToolResult(content=[content], is_error=failed, _meta=about)
