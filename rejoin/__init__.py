"""Rejoin: a chat-agent backend whose streams can be rejoined from anywhere.

This package is the one name that applications import. It has no logic: each name is defined in a package
behind it, and is imported when it is first used, so that a gateway needs no model library and a runner no
gateway.

For agents, with the extra `runner`: `Agent`, `tool`, `ToolContext` and what they refer to.
Inside an application, with the extra `gateway`: `connect`, `routes` and what they return.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rejoin_gateway.embed import ChatSession, Rejoin, Stream, connect, routes
    from rejoin_runner.agent.agent import Agent
    from rejoin_runner.agent.custom_loop import LoopError, RunInput
    from rejoin_runner.agent.decorator import agent
    from rejoin_runner.agent.status_updates import StatusUpdates, Summary
    from rejoin_runner.mcp.server import McpServer
    from rejoin_runner.models.context_window import ContextWindow
    from rejoin_runner.models.fallback import Fallback
    from rejoin_runner.models.model import (
        Done,
        Model,
        ModelChunk,
        ModelError,
        ModelRequest,
        ModelSettings,
        Usage,
    )
    from rejoin_runner.tools.decorator import tool
    from rejoin_runner.tools.tool import ToolError
    from rejoin_runner.tools.tool_context import RunContext, SyncToolContext, ToolContext

__all__ = (
    "Agent",
    "ChatSession",
    "ContextWindow",
    "Done",
    "Fallback",
    "LoopError",
    "McpServer",
    "Model",
    "ModelChunk",
    "ModelError",
    "ModelRequest",
    "ModelSettings",
    "Rejoin",
    "RunContext",
    "RunInput",
    "StatusUpdates",
    "Stream",
    "Summary",
    "SyncToolContext",
    "ToolContext",
    "ToolError",
    "Usage",
    "__version__",
    "agent",
    "connect",
    "routes",
    "tool",
)

_MODULES = {
    "rejoin_gateway.embed": ("ChatSession", "Rejoin", "Stream", "connect", "routes"),
    "rejoin_runner.agent.agent": ("Agent",),
    "rejoin_runner.agent.custom_loop": ("LoopError", "RunInput"),
    "rejoin_runner.agent.decorator": ("agent",),
    "rejoin_runner.agent.status_updates": ("StatusUpdates", "Summary"),
    "rejoin_runner.mcp.server": ("McpServer",),
    "rejoin_runner.models.context_window": ("ContextWindow",),
    "rejoin_runner.models.fallback": ("Fallback",),
    "rejoin_runner.models.model": (
        "Done",
        "Model",
        "ModelChunk",
        "ModelError",
        "ModelRequest",
        "ModelSettings",
        "Usage",
    ),
    "rejoin_runner.tools.decorator": ("tool",),
    "rejoin_runner.tools.tool": ("ToolError",),
    "rejoin_runner.tools.tool_context": ("RunContext", "SyncToolContext", "ToolContext"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what a name stands for. Raises `AttributeError` for a name that is not public."""
    if name == "__version__":
        return metadata.version("rejoin")
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
