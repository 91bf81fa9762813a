"""The tools of an agent: its own, and those that its MCP servers offer at the moment."""

from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec

from rejoin_runner.mcp.remote_tool import RemoteTool, Send, build_absent_tool
from rejoin_runner.mcp.server_declaration import McpServer
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
    """The tools of an agent by name: its own, then those that its MCP servers offer at the moment.

    As long as a server has never connected, each name with its prefix returns a tool whose calls fail with
    that reason: a worker that takes a run over must not reject the run's calls as unknown tools.
    """

    def __init__(self, local_tools: Mapping[str, Tool], servers: Collection[ServerTools]) -> None:
        self._local_tools = local_tools
        self._servers = servers

    def __getitem__(self, name: str) -> Tool:
        if name in self._local_tools:
            return self._local_tools[name]
        for server_tools in self._servers:
            if name in server_tools.tools:
                return server_tools.tools[name]
            if (
                name.startswith(server_tools.server.prefix)
                and not server_tools.connected
                and not server_tools.tools
            ):
                return build_absent_tool(server_tools.server, name, server_tools.send)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        names = dict.fromkeys(self._local_tools)
        for server_tools in self._servers:
            names |= dict.fromkeys(server_tools.tools)
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class OwnAndRequestTools(Mapping[str, Tool]):
    """An agent's own tools by name, then those that a request brings."""

    def __init__(self, own: Mapping[str, Tool], brought: Mapping[str, Tool]) -> None:
        self._own = own
        self._brought = brought

    def __getitem__(self, name: str) -> Tool:
        return self._own[name] if name in self._own else self._brought[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._own, *self._brought)))

    def __len__(self) -> int:
        return sum(1 for _ in self)
