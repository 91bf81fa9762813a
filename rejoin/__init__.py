"""Rejoin: a chat-agent backend whose streams can be rejoined from anywhere.

Applications import everything from this package; the classes of events are in `rejoin.chunks`. It has no
logic: it imports a name from the package that defines it, when the name is first used. Importing `rejoin`
therefore needs no extra.

With the extra `runner`, to write agents: `Agent`, `tool`, `ToolContext` and the types in their signatures.
With the extra `gateway`, to serve sessions from an application: `connect`, `routes`, `asgi` and their types.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rejoin_adapters.store_types import History, Owner
    from rejoin_gateway.asgi.application import asgi
    from rejoin_gateway.embed import (
        AgentSessions,
        ApprovalInput,
        ChatSession,
        ErrorResponse,
        Rejoin,
        connect,
        error_response,
        load_settings,
        routes,
    )
    from rejoin_gateway.library_stream import NoOutput, Stream
    from rejoin_gateway.settings import GatewaySettings
    from rejoin_protocol.errors import (
        Conflict,
        Forbidden,
        Gone,
        Invalid,
        Limited,
        NotFound,
        RejoinError,
        Unauthenticated,
        Unavailable,
    )
    from rejoin_protocol.events.ui_message import ToolPart, UIMessage, UIMessagePart
    from rejoin_protocol.ids import TenantId, UserId
    from rejoin_runner.agent.agent import Agent
    from rejoin_runner.agent.agent_decorator import agent
    from rejoin_runner.agent.callers import Callers
    from rejoin_runner.agent.custom_loop import LoopError, LoopOutput, RunInput
    from rejoin_runner.agent.status_settings import StatusUpdates, Summary
    from rejoin_runner.integrations.pydantic_ai import adapt_pydantic_ai
    from rejoin_runner.mcp.server_declaration import McpServer
    from rejoin_runner.models.context_window import ContextWindow
    from rejoin_runner.models.fallback import Fallback
    from rejoin_runner.models.model import (
        Done,
        Model,
        ModelChunk,
        ModelError,
        ModelName,
        ModelRequest,
        ModelSettings,
        ModelUsage,
        Usage,
    )
    from rejoin_runner.tools.client_tool import ClientTool, client_tool
    from rejoin_runner.tools.isolated_calls import Isolation
    from rejoin_runner.tools.tool_context import CallApproval, RunContext, SyncToolContext, ToolContext
    from rejoin_runner.tools.tool_decorator import tool
    from rejoin_runner.tools.tool_error import ToolError

    __version__: str

__all__ = (
    "Agent",
    "AgentSessions",
    "ApprovalInput",
    "CallApproval",
    "Callers",
    "ChatSession",
    "ClientTool",
    "Conflict",
    "ContextWindow",
    "Done",
    "ErrorResponse",
    "Fallback",
    "Forbidden",
    "GatewaySettings",
    "Gone",
    "History",
    "Invalid",
    "Isolation",
    "Limited",
    "LoopError",
    "LoopOutput",
    "McpServer",
    "Model",
    "ModelChunk",
    "ModelError",
    "ModelName",
    "ModelRequest",
    "ModelSettings",
    "ModelUsage",
    "NoOutput",
    "NotFound",
    "Owner",
    "Rejoin",
    "RejoinError",
    "RunContext",
    "RunInput",
    "StatusUpdates",
    "Stream",
    "Summary",
    "SyncToolContext",
    "TenantId",
    "ToolContext",
    "ToolError",
    "ToolPart",
    "UIMessage",
    "UIMessagePart",
    "Unauthenticated",
    "Unavailable",
    "Usage",
    "UserId",
    "__version__",
    "adapt_pydantic_ai",
    "agent",
    "asgi",
    "client_tool",
    "connect",
    "error_response",
    "load_settings",
    "routes",
    "tool",
)

_MODULES = {
    "rejoin_adapters.store_types": ("History", "Owner"),
    "rejoin_gateway.settings": ("GatewaySettings",),
    "rejoin_gateway.asgi.application": ("asgi",),
    "rejoin_gateway.embed": (
        "AgentSessions",
        "ApprovalInput",
        "ChatSession",
        "ErrorResponse",
        "Rejoin",
        "connect",
        "error_response",
        "load_settings",
        "routes",
    ),
    "rejoin_gateway.library_stream": ("NoOutput", "Stream"),
    "rejoin_protocol.errors": (
        "Conflict",
        "Forbidden",
        "Gone",
        "Invalid",
        "Limited",
        "NotFound",
        "RejoinError",
        "Unauthenticated",
        "Unavailable",
    ),
    "rejoin_protocol.events.ui_message": ("ToolPart", "UIMessage", "UIMessagePart"),
    "rejoin_protocol.ids": ("TenantId", "UserId"),
    "rejoin_runner.agent.agent": ("Agent",),
    "rejoin_runner.agent.custom_loop": ("LoopError", "LoopOutput", "RunInput"),
    "rejoin_runner.agent.agent_decorator": ("agent",),
    "rejoin_runner.agent.callers": ("Callers",),
    "rejoin_runner.agent.status_settings": ("StatusUpdates", "Summary"),
    "rejoin_runner.integrations.pydantic_ai": ("adapt_pydantic_ai",),
    "rejoin_runner.mcp.server_declaration": ("McpServer",),
    "rejoin_runner.models.context_window": ("ContextWindow",),
    "rejoin_runner.models.fallback": ("Fallback",),
    "rejoin_runner.models.model": (
        "Done",
        "Model",
        "ModelChunk",
        "ModelError",
        "ModelName",
        "ModelRequest",
        "ModelSettings",
        "ModelUsage",
        "Usage",
    ),
    "rejoin_runner.tools.tool_decorator": ("tool",),
    "rejoin_runner.tools.client_tool": ("ClientTool", "client_tool"),
    "rejoin_runner.tools.tool_error": ("ToolError",),
    "rejoin_runner.tools.isolated_calls": ("Isolation",),
    "rejoin_runner.tools.tool_context": ("CallApproval", "RunContext", "SyncToolContext", "ToolContext"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # type checkers see the imports above, and report names that do not exist

    def __getattr__(name: str) -> Any:
        """Import a public name at its first use. Raises `AttributeError` for any other name."""
        if name == "__version__":
            return import_module("importlib.metadata").version("rejoin")
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
