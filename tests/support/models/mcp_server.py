"""A real MCP server on loopback, made with the official SDK: over HTTP, or over stdio when it is run."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ImageContent, TextContent, ToolAnnotations
from pydantic import Field
from starlette.responses import PlainTextResponse

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8)).decode()


class LegacyTransport:
    """A server of the session era of MCP, which does not know the newer protocol version."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if (b"mcp-protocol-version", b"2026-07-28") in scope.get("headers", ()):
            await PlainTextResponse("what?", status_code=400)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class Ledger:
    """The calls that the tools of the server received."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.keys: list[Any] = []
        self.hold = asyncio.Event()


def build_server(ledger: Ledger, *names: str) -> MCPServer:
    """A server with these tools, or with all of them."""
    server = MCPServer("things")

    def add(number: Annotated[int, Field(ge=0)], other: int, ctx: Context) -> int:
        """Add two numbers."""
        ledger.calls.append("add")
        meta: Any = ctx.request_context.meta or {}
        ledger.keys.append(meta.get("rejoin/idempotency-key"))
        return number + other

    def picture() -> CallToolResult:
        """Show a picture."""
        return CallToolResult(
            content=[
                TextContent(type="text", text="a pixel"),
                ImageContent(type="image", data=PIXEL, mime_type="image/png"),
            ]
        )

    def broken() -> str:
        """Fail."""
        raise ToolError("out of order")

    def wipe(path: str) -> str:
        """Delete something."""
        ledger.calls.append(f"wipe {path}")
        return f"{path} is gone"

    async def hang() -> str:
        """Take for ever."""
        ledger.calls.append("hang")
        await ledger.hold.wait()
        return "after all"

    def big() -> str:
        """Say too much."""
        return "x" * 400_000

    tools = {one.__name__: one for one in (add, picture, broken, wipe, hang, big)}
    for name in names or tools:
        hints = ToolAnnotations(read_only_hint=True) if name in {"add", "hang"} else None
        server.add_tool(tools[name], annotations=hints)
    return server


@asynccontextmanager
async def serve(server: MCPServer, port: int = 0, *, old: bool = False) -> AsyncIterator[int]:
    """Serve it on loopback, for as long as the context; the port. `old`: only with sessions."""
    app = server.streamable_http_app()
    if old:
        app.add_middleware(LegacyTransport)
    config = uvicorn.Config(
        app, host="127.0.0.1", port=port, log_config=None, lifespan="on", timeout_graceful_shutdown=0
    )
    listening = uvicorn.Server(config)
    sockets = [config.bind_socket()]
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_serve(listening, sockets))
        while not listening.started:  # noqa: ASYNC110 - it has no event for that
            await asyncio.sleep(0.01)
        try:
            yield sockets[0].getsockname()[1]
        finally:
            listening.should_exit = True
            await asyncio.wait([task])


async def _serve(listening: uvicorn.Server, sockets: list[Any]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await listening._serve(sockets)


if __name__ == "__main__":
    build_server(Ledger()).run("stdio")
