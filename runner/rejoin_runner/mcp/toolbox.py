"""The tools of an agent: its own, and those of its MCP servers as they come and go."""

from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec

from rejoin_runner.mcp.remote_tool import RemoteTool, Send, build_absent_tool
from rejoin_runner.mcp.server import McpServer
from rejoin_runner.tools.tool import Tool


class ServerTools(msgspec.Struct):
    """The tools of one MCP server as they are known now."""

    server: McpServer
    send: Send
    tools: Mapping[str, RemoteTool] = {}
    connected: bool = False
    """Whether a call can be made now."""


type ServerToolsLookup = Callable[[McpServer], ServerTools]


class Toolbox(Mapping[str, Tool]):
    """The tools of an agent by name: its own, then those of its MCP servers, as servers come and go.

    An unknown name that begins like a tool of a server that was never connected finds a tool whose calls fail
    with that reason: a worker that takes a run over must not reject the run's calls as unknown tools.
    """

    def __init__(self, local_tools: Mapping[str, Tool], servers: Collection[ServerTools]) -> None:
        self._local_tools = local_tools
        self._servers = servers

    def __getitem__(self, name: str) -> Tool:
        if name in self._local_tools:
            return self._local_tools[name]
        for known in self._servers:
            if name in known.tools:
                return known.tools[name]
            if name.startswith(known.server.prefix) and not known.connected and not known.tools:
                return build_absent_tool(known.server, name, known.send)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(self._local_tools)
        for known in self._servers:
            names |= dict.fromkeys(known.tools)
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)
