"""The way to MCP servers: one shared connection to each, kept up for as long as the runner serves.

Owns when a server is there, and what becomes of a call when it is not. A server that is away, hangs or lies
costs a run a tool error, never the runner its start. A connection that has failed is replaced at once, and
closed when the calls on it are over, each of which is bounded by its server's timeout. Imported only where an
agent has servers: the SDK takes seconds.
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
from mcp_types import Tool as Listed
from rejoin_adapters.service.background import run_alongside
from rejoin_protocol.errors import Invalid

from rejoin_runner.mcp.remote_tool import (
    FAULT_CHARS_MAX,
    TOOLS_MAX,
    RemoteTool,
    build_remote_tool,
    parse_result,
)
from rejoin_runner.mcp.safe_http import http_client
from rejoin_runner.mcp.server import McpServer
from rejoin_runner.mcp.toolbox import ServerTools, ServerToolsLookup
from rejoin_runner.tools.tool import ToolError
from rejoin_runner.tools.tool_context import ToolContext

log = structlog.get_logger("rejoin.mcp")

KEY = "rejoin/idempotency-key"
"""Where in a call's `_meta` its idempotency key is."""
START_WAIT_S = 5.0
"""How long a runner's start waits for servers that take their time."""
LOOK_PERIOD_S = 60.0
"""How often a silent server is asked for its tools."""
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0
PAGES_MAX = 100
SESSION_CODES = (INVALID_REQUEST, -32001)
"""How servers say that they do not know a session (any more); the one or the other, and in words."""


class ConnectionLost(Exception):
    """The connection is gone. `undone`: the call was not begun, for certain."""

    def __init__(self, *, undone: bool) -> None:
        super().__init__()
        self.undone = undone


class McpLink:
    """One connection and the calls on it."""

    def __init__(self, client: Client, news: asyncio.Event) -> None:
        self.client = client
        self.news = news
        """Something may have changed: the tools, or whether there is a server at all."""
        self.lost = False
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def lose(self) -> None:
        """It takes no more calls."""
        self.lost = True
        self.news.set()

    async def idle(self) -> None:
        """Until no call is on it."""
        await self._idle.wait()

    async def call(self, tool: RemoteTool, input: Any, key: str) -> CallToolResult:
        """Make one. Raises what the SDK raises."""
        meta = cast("RequestParamsMeta", {KEY: key})  # an open map, which the type does not say
        self._calls += 1
        self._idle.clear()
        try:
            return await self.client.call_tool(tool.remote_name, input, meta=meta)
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()


class McpConnection:
    """The way to one server. `keep` keeps it up; `source` is what is known of its tools."""

    def __init__(self, server: McpServer) -> None:
        self.source = ServerTools(server, self.send)
        self.tried = asyncio.Event()
        """Whether the server is there has been found out once."""
        self._server = server
        self._link: McpLink | None = None
        self._up = asyncio.Event()
        self._log = log.bind(server=server.name)

    async def keep(self) -> None:
        """Connect, and connect again, for ever."""
        delay_s = RETRY_FIRST_S
        async with asyncio.TaskGroup() as group:
            while True:
                known, over = self.source.tools, asyncio.Event()
                group.create_task(self._serve(over))
                await over.wait()
                delay_s = min(delay_s * 2, RETRY_MAX_S) if self.source.tools is known else RETRY_FIRST_S
                await asyncio.sleep(delay_s)

    async def send(self, tool: RemoteTool, input: Any, context: ToolContext[Any]) -> Any:
        """Make a call, its result as a tool's output. What may be made again is, once, on a new connection.
        Raises `ToolError`, `TimeoutError`.
        """
        name, key = self._server.name, context.idempotency_key
        async with asyncio.timeout(self._server.timeout_s):
            try:
                return await self._once(tool, input, key)
            except ConnectionLost as away:
                if not (away.undone or tool.repeatable):
                    raise ToolError(
                        f"the MCP server {name} went away: what became of the call is unknown"
                    ) from away
            await self._up.wait()
            try:
                return await self._once(tool, input, key)
            except ConnectionLost as away:
                raise ToolError(f"the MCP server {name} went away") from away

    async def _once(self, tool: RemoteTool, input: Any, key: str) -> Any:
        link = self._link
        if link is None or not tool.remote_name:
            raise ToolError(f"the MCP server {self._server.name} is away")
        try:
            result = await link.call(tool, input, key)
        except (TimeoutError, asyncio.CancelledError):
            link.news.set()  # is it still there?
            raise
        except MCPError as fault:
            forgotten = fault.code in SESSION_CODES and "session" in str(fault).lower()
            if forgotten or fault.code == CONNECTION_CLOSED:
                self._lose(link)
                # Who does not know the session has not looked further.
                raise ConnectionLost(undone=forgotten) from fault
            link.news.set()
            raise ToolError(str(fault)[:FAULT_CHARS_MAX]) from fault
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, httpx2.HTTPError, OSError) as fault:
            self._lose(link)
            raise ConnectionLost(undone=False) from fault
        except (ValueError, RuntimeError) as fault:  # of the SDK, about a result
            raise ToolError("the MCP server's answer is not what the protocol has") from fault
        content = result.model_dump(by_alias=True, mode="json", exclude={"structured_content"})
        return parse_result(content | {"structuredContent": result.structured_content})

    async def _serve(self, over: asyncio.Event) -> None:
        """One connection, to its end. `over` is set when it takes no more calls."""
        link: McpLink | None = None
        try:
            async with asyncio.timeout(self._server.timeout_s) as limit, self._connected() as link:
                await self._look(link)
                limit.reschedule(None)
                self._found(link)
                await self._watch(link)
                self._lose(link)
                over.set()
                await link.idle()
        except Exception as fault:  # noqa: BLE001 - the SDK's or the server's; it costs nobody but its callers
            self._log.warning("mcp_server_away", error=_told(fault))
        finally:
            if link is not None:
                self._lose(link)
            self.tried.set()
            over.set()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[McpLink]:
        server, news = self._server, asyncio.Event()

        async def on_message(message: IncomingMessage) -> None:
            if isinstance(message, ToolListChangedNotification):
                news.set()

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
            yield McpLink(await stack.enter_async_context(client), news)

    def _found(self, link: McpLink) -> None:
        self._link, self.source.connected = link, True
        self._up.set()
        self.tried.set()
        self._log.info("mcp_server_found", tools=len(self.source.tools))

    def _lose(self, link: McpLink) -> None:
        link.lose()
        if self._link is link:
            self._link, self.source.connected = None, False
            self._up.clear()

    async def _watch(self, link: McpLink) -> None:
        """Until the connection is lost, or its server does not answer any more."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_PERIOD_S):
                    await link.news.wait()
            link.news.clear()
            if link.lost or not await self._still(link):
                return

    async def _still(self, link: McpLink) -> bool:
        try:
            async with asyncio.timeout(self._server.timeout_s):
                await self._look(link)
        except (MCPError, TimeoutError) as fault:
            self._log.warning("mcp_server_silent", error=_told(fault))
            return False
        return True

    async def _look(self, link: McpLink) -> None:
        """Ask for the tools. Those that cannot be used are left out, and said once."""
        allowed, tools = self._server.tools, dict[str, RemoteTool]()
        for listed in await self._listed(link):
            if allowed is not None and listed.name not in allowed:
                continue
            said = listed.model_dump(by_alias=True, mode="json", exclude={"input_schema"})
            try:
                tool = await asyncio.to_thread(  # to check a large schema takes its time
                    build_remote_tool, self._server, said | {"inputSchema": listed.input_schema}, self.send
                )
            except Invalid as fault:
                self._leave_out(listed, str(fault))
            else:
                if tools.setdefault(tool.name, tool) is not tool:
                    self._leave_out(listed, "another one has its name")
        self.source.tools = tools

    def _leave_out(self, listed: Listed, why: str) -> None:
        self._log.warning("mcp_tool_left_out", tool=listed.name[:128], why=why)

    async def _listed(self, link: McpLink) -> Sequence[Listed]:
        listed: list[Listed] = []
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


def _told(fault: BaseException) -> str:
    """The first reason of a fault, without the groups that tasks put around it."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return f"{type(fault).__name__}: {fault}"[:FAULT_CHARS_MAX]


@asynccontextmanager
async def open_connections(servers: Sequence[McpServer]) -> AsyncIterator[ServerToolsLookup]:
    """Connections to these servers, equal ones shared, for as long as the context. Waits for them a little:
    one that is away appears later.
    """
    connections: list[McpConnection] = []
    for server in servers:
        if all(one.source.server != server for one in connections):
            connections.append(McpConnection(server))

    def source_of(server: McpServer) -> ServerTools:
        return next(one.source for one in connections if one.source.server == server)

    async with run_alongside(*(one.keep() for one in connections)):
        with suppress(TimeoutError):
            async with asyncio.timeout(START_WAIT_S):
                for one in connections:
                    await one.tried.wait()
        yield source_of
