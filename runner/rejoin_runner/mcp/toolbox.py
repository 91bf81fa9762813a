"""The tools of an agent: its own, and those of its MCP servers as they come and go."""

from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec

from rejoin_runner.mcp.remote_tool import RemoteTool, Send, build_absent_tool
from rejoin_runner.mcp.server import McpServer
from rejoin_runner.tools.tool import Tool


class ServerTools(msgspec.Struct):
    """The tools of one server as they are known at the moment. `connected`: whether it can be called now."""

    server: McpServer
    send: Send
    tools: Mapping[str, RemoteTool] = {}
    connected: bool = False


type ServerToolsLookup = Callable[[McpServer], ServerTools]


class Toolbox(Mapping[str, Tool]):
    """An agent's tools: its own, and those of its servers as they come and go. Its own names come first.

    A name that may be that of a server which has not been there yet finds a tool that says so when it is
    called: whoever takes a run over must not take its calls for nonsense.
    """

    def __init__(self, own: Mapping[str, Tool], sources: Collection[ServerTools]) -> None:
        self._own = own
        self._sources = sources

    def __getitem__(self, name: str) -> Tool:
        if name in self._own:
            return self._own[name]
        for source in self._sources:
            if name in source.tools:
                return source.tools[name]
            if name.startswith(source.server.prefix) and not source.connected and not source.tools:
                return build_absent_tool(source.server, name, source.send)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        seen = dict.fromkeys(self._own)
        for source in self._sources:
            seen |= dict.fromkeys(source.tools)
        return iter(seen)

    def __len__(self) -> int:
        return sum(1 for _ in self)
