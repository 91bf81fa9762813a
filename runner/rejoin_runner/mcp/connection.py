"""Connections to MCP servers: one shared connection per server, kept open while the runner serves.

Owns when a server counts as connected, and what happens to a call when the connection fails. A server that is
down, hangs or sends invalid data makes its tool calls fail. It delays the runner's start by at most
`START_WAIT_S` and never breaks it. A failed connection is replaced at once and closed when its calls have
ended; each call is bounded by the server's timeout. Imported only if an agent has MCP servers: the SDK's
import takes seconds.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any, cast

import anyio
import httpx2
import structlog
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.session import IncomingMessage
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    CallToolResult,
    Implementation,
    RequestParamsMeta,
    ToolListChangedNotification,
)
from mcp_types import Tool as ListedTool

from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.errors import Invalid
from rejoin_runner.mcp.remote_tool import (
    MCP_ERROR_CHARS_MAX,
    RemoteTool,
    build_remote_tool,
    parse_result,
)
from rejoin_runner.mcp.safe_http import http_client
from rejoin_runner.mcp.server_declaration import McpServer
from rejoin_runner.mcp.toolbox import ServerTools, ServerToolsLookup
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_error import ToolError

log = structlog.get_logger("rejoin.mcp")

IDEMPOTENCY_KEY_FIELD = "rejoin/idempotency-key"
"""The field of a call's `_meta` that holds its idempotency key."""
TOOLS_MAX = 128
"""Tools of one server. With more, a model no longer finds the right one."""
START_WAIT_S = 5.0
"""How long a runner's start waits for slow servers."""
REFRESH_INTERVAL_S = 60.0
"""How often a server is asked for its tools without a notification. It is the health check too."""
RECONNECT_FIRST_S = 0.2
RECONNECT_MAX_S = 5.0
PAGES_MAX = 100
SESSION_UNKNOWN_CODES = (INVALID_REQUEST, -32001)
"""Error codes of an unknown session. Servers use one or the other, with "session" in the text."""


class ConnectionLost(Exception):
    """The connection failed. `not_started`: the server has certainly not started the call."""

    def __init__(self, *, not_started: bool) -> None:
        super().__init__()
        self.not_started = not_started


class McpLink:
    """One connection and the calls in progress on it."""

    def __init__(self, client: Client, changed: asyncio.Event) -> None:
        self.client = client
        self.changed = changed
        """Set if the tools, or the state of the connection, may have changed."""
        self.lost = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def mark_lost(self) -> None:
        """Take no more calls."""
        self.lost = True
        self.changed.set()

    async def wait_until_idle(self) -> None:
        """Wait until no call is in progress."""
        await self._idle.wait()

    async def call(self, tool: RemoteTool, input: Any, key: str) -> CallToolResult:
        """Call a tool. Raises what the SDK raises."""
        # The protocol allows any key; the SDK's type does not.
        meta = cast("RequestParamsMeta", {IDEMPOTENCY_KEY_FIELD: key})
        self._calls += 1
        self._idle.clear()
        try:
            return await self.client.call_tool(tool.remote_name, input, meta=meta)
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()


class McpConnection:
    """The connection to one server, replaced when it fails. `server_tools` has the tools known now."""

    def __init__(self, server: McpServer) -> None:
        self.server_tools = ServerTools(server, self.send)
        self.first_try_done = asyncio.Event()
        """Set after the first attempt to connect, whether it succeeded or not."""
        self._server = server
        self._link: McpLink | None = None
        self._connected = asyncio.Event()
        self._log = log.bind(server=server.name)

    async def keep_open(self) -> None:
        """Connect, and reconnect whenever the connection fails, until cancelled."""
        delay_s = RECONNECT_FIRST_S
        async with asyncio.TaskGroup() as group:
            while True:
                tools_before, ended = self.server_tools.tools, asyncio.Event()
                group.create_task(self._serve(ended))
                await ended.wait()
                delay_s = (
                    min(delay_s * 2, RECONNECT_MAX_S)
                    if self.server_tools.tools is tools_before
                    else RECONNECT_FIRST_S
                )
                await asyncio.sleep(delay_s)

    async def send(self, tool: RemoteTool, input: Any, context: ToolContext[Any]) -> Any:
        """Make a call and return its result as a tool's output.

        If the connection fails, a call that may be repeated is made once more on a new connection. Raises
        `ToolError` if the call fails or its outcome is unknown, `TimeoutError` after the server's timeout.
        """
        name, key = self._server.name, context.idempotency_key
        async with asyncio.timeout(self._server.timeout_s):
            try:
                return await self._call_once(tool, input, key)
            except ConnectionLost as lost:
                if not (lost.not_started or tool.is_repeatable):
                    raise ToolError(
                        f"the MCP server {name} disconnected: the outcome of the call is unknown"
                    ) from lost
            await self._connected.wait()
            try:
                return await self._call_once(tool, input, key)
            except ConnectionLost as lost:
                raise ToolError(f"the MCP server {name} disconnected") from lost

    async def _call_once(self, tool: RemoteTool, input: Any, key: str) -> Any:
        link = self._link
        if link is None or not tool.remote_name:
            raise ToolError(f"the MCP server {self._server.name} is not connected")
        try:
            result = await link.call(tool, input, key)
        except (TimeoutError, asyncio.CancelledError):
            link.changed.set()  # check whether the server still answers
            raise
        except MCPError as fault:
            session_unknown = fault.code in SESSION_UNKNOWN_CODES and "session" in str(fault).lower()
            if session_unknown or fault.code == CONNECTION_CLOSED:
                self._mark_lost(link)
                # A server that does not know the session has not started the call.
                raise ConnectionLost(not_started=session_unknown) from fault
            link.changed.set()
            raise ToolError(str(fault)[:MCP_ERROR_CHARS_MAX]) from fault
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, httpx2.HTTPError, OSError) as fault:
            self._mark_lost(link)
            raise ConnectionLost(not_started=False) from fault
        except (ValueError, RuntimeError) as fault:  # the SDK raises these for an invalid result
            raise ToolError("the MCP server's answer breaks the protocol") from fault
        content = result.model_dump(by_alias=True, mode="json", exclude={"structured_content"})
        return parse_result(content | {"structuredContent": result.structured_content})

    async def _serve(self, ended: asyncio.Event) -> None:
        """Use one connection until it fails. `ended` is set when it takes no more calls."""
        link: McpLink | None = None
        try:
            async with asyncio.timeout(self._server.timeout_s) as limit, self._connect() as link:
                await self._refresh_tools(link)
                limit.reschedule(None)
                self._mark_connected(link)
                await self._watch(link)
                self._mark_lost(link)
                ended.set()
                await link.wait_until_idle()
        except Exception as fault:  # noqa: BLE001 - the SDK raises many types; only calls of this server fail
            self._log.warning("mcp_server_disconnected", error=_describe_fault(fault))
        finally:
            if link is not None:
                self._mark_lost(link)
            self.first_try_done.set()
            ended.set()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[McpLink]:
        server, changed = self._server, asyncio.Event()

        async def on_message(message: IncomingMessage) -> None:
            if isinstance(message, ToolListChangedNotification):
                changed.set()

        async with AsyncExitStack() as stack:
            if server.url is not None:
                http = await stack.enter_async_context(http_client(server))
                transport = streamable_http_client(server.url, http_client=http)
            else:
                command, *arguments = server.command
                process = StdioServerParameters(command=command, args=arguments, env=dict(server.env))
                transport = stdio_client(process, errlog=sys.stderr)
            client = Client(
                transport,
                message_handler=on_message,
                client_info=Implementation(name="rejoin", version=version("rejoin")),
                cache=None,
            )
            yield McpLink(await stack.enter_async_context(client), changed)

    def _mark_connected(self, link: McpLink) -> None:
        self._link, self.server_tools.connected = link, True
        self._connected.set()
        self.first_try_done.set()
        self._log.info("mcp_server_connected", tools=len(self.server_tools.tools))

    def _mark_lost(self, link: McpLink) -> None:
        link.mark_lost()
        if self._link is link:
            self._link, self.server_tools.connected = None, False
            self._connected.clear()

    async def _watch(self, link: McpLink) -> None:
        """Return when the connection is lost or the server no longer answers."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(REFRESH_INTERVAL_S):
                    await link.changed.wait()
            link.changed.clear()
            if link.lost or not await self._is_alive(link):
                return

    async def _is_alive(self, link: McpLink) -> bool:
        try:
            async with asyncio.timeout(self._server.timeout_s):
                await self._refresh_tools(link)
        except (MCPError, TimeoutError) as fault:
            self._log.warning("mcp_server_unresponsive", error=_describe_fault(fault))
            return False
        return True

    async def _refresh_tools(self, link: McpLink) -> None:
        """Ask the server for its tools. A tool that cannot be used is left out and logged."""
        allowed, tools = self._server.tools, dict[str, RemoteTool]()
        for listed in await self._list_tools(link):
            if allowed is not None and listed.name not in allowed:
                continue
            entry = listed.model_dump(by_alias=True, mode="json", exclude={"input_schema"})
            try:
                tool = await asyncio.to_thread(  # checking a large schema takes CPU time
                    build_remote_tool, self._server, entry | {"inputSchema": listed.input_schema}, self.send
                )
            except Invalid as fault:
                self._log_left_out(listed, str(fault))
            else:
                if tools.setdefault(tool.name, tool) is not tool:
                    self._log_left_out(listed, "another tool has its name")
        self.server_tools.tools = tools

    def _log_left_out(self, listed: ListedTool, reason: str) -> None:
        self._log.warning("mcp_tool_left_out", tool=listed.name[:128], reason=reason)

    async def _list_tools(self, link: McpLink) -> Sequence[ListedTool]:
        listed: list[ListedTool] = []
        cursor = None
        for _ in range(PAGES_MAX):
            page = await link.client.list_tools(cursor=cursor)
            listed += page.tools
            cursor = page.next_cursor
            if cursor is None or len(listed) >= TOOLS_MAX:
                break
        if len(listed) > TOOLS_MAX:
            self._log.warning("mcp_tools_left_out", listed=len(listed), taken=TOOLS_MAX)
        return listed[:TOOLS_MAX]


def _describe_fault(fault: BaseException) -> str:
    """Type and text of the first exception, without the groups that task groups put around it."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return f"{type(fault).__name__}: {fault}"[:MCP_ERROR_CHARS_MAX]


@asynccontextmanager
async def open_connections(servers: Sequence[McpServer]) -> AsyncIterator[ServerToolsLookup]:
    """Keep connections to these servers open within the context; equal servers share one.

    Waits up to `START_WAIT_S` for them. The tools of a server that connects later appear then.
    """
    connections: list[McpConnection] = []
    for server in servers:
        if all(connection.server_tools.server != server for connection in connections):
            connections.append(McpConnection(server))

    def find_tools(server: McpServer) -> ServerTools:
        return next(
            connection.server_tools for connection in connections if connection.server_tools.server == server
        )

    async with run_alongside(*(connection.keep_open() for connection in connections)):
        with suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_S):
                for connection in connections:
                    await connection.first_try_done.wait()
        yield find_tools
