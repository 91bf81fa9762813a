"""How an agent names an MCP server."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from rejoin_protocol.errors import Invalid

from rejoin_runner.decision.agent_stack import DELEGATE, TRANSFER
from rejoin_runner.tools.tool import NeedsApproval, require_sync_approval

TIMEOUT_S = 60.0


SERVER_NAME = re.compile(r"[A-Za-z0-9-]{1,24}")


type Policy = NeedsApproval[Any] | Mapping[str, NeedsApproval[Any]]


class McpServer(msgspec.Struct, frozen=True, kw_only=True):
    """An MCP server whose tools an agent may use, as `<name>_<tool>`. Reached by `url` (streamable HTTP), or
    started as `command` (stdio), with `env` added to the few variables that a process needs anyway.

    `tools`: only these, by the server's names. `needs_approval`: for all of them, or by the server's names;
    what is unsaid, the agent says by `<name>_<tool>`. `timeout_s`: for one call, and for getting there.
    `allow_private`: for a URL inside one's own network; without it only public addresses are connected to.
    Raises `Invalid`.
    """

    name: str
    url: str | None = None
    command: tuple[str, ...] | list[str] = ()
    headers: Mapping[str, str] = {}
    env: Mapping[str, str] = {}
    tools: Collection[str] | None = None
    needs_approval: Policy | None = None
    timeout_s: float = TIMEOUT_S
    allow_private: bool = False

    def __post_init__(self) -> None:
        if not SERVER_NAME.fullmatch(self.name):
            raise Invalid(f"MCP server {self.name!r}: a name has 1 to 24 letters, digits and -")
        if (self.url is None) == (not self.command):
            raise Invalid(f"MCP server {self.name} has either a url or a command")
        if self.url is not None and not re.match(r"https?://[^/@]+(/|$)", self.url):
            raise Invalid(f"MCP server {self.name}: its url is http:// or https://, without credentials")
        if TRANSFER.startswith(self.prefix) or DELEGATE.startswith(self.prefix):
            raise Invalid(f"MCP server {self.name}: such names are for reaching other agents")
        policy = self.needs_approval
        for tool, approval in (policy if isinstance(policy, Mapping) else {"*": policy}).items():
            require_sync_approval(f"MCP server {self.name}, tool {tool}", approval)
        if self.timeout_s <= 0:
            raise Invalid(f"MCP server {self.name}: timeout_s is more than 0")

    def __repr__(self) -> str:
        return f"McpServer(name={self.name!r})"  # its headers are secrets

    @property
    def prefix(self) -> str:
        """What the names of its tools begin with."""
        return f"{self.name}_"

    def approval(self, tool: str) -> NeedsApproval[Any] | None:
        """What it says of one of its tools, by the server's name; None: nothing."""
        policy = self.needs_approval
        return policy.get(tool) if isinstance(policy, Mapping) else policy
