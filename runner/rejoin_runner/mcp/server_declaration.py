"""`McpServer`: an application's declaration of an MCP server whose tools an agent may use."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_runner.next_action.agent_stack import DELEGATE, TRANSFER
from rejoin_runner.tools.tool import NeedsApproval

MCP_TIMEOUT_S = 60.0
SERVER_NAME = re.compile(r"[A-Za-z0-9-]{1,24}")

type ApprovalPolicy = NeedsApproval[Any] | Mapping[str, NeedsApproval[Any]]


class McpServer(msgspec.Struct, frozen=True, kw_only=True):
    """An MCP server whose tools an agent may use, as `<name>_<tool>`.

    Attributes:
        name: Begins the names of the tools: 1 to 24 letters, digits and `-`.
        url: The address of a server that speaks streamable HTTP. A server has either a `url` or a `command`.
        command: The command line that starts a server that speaks stdio. Default: none.
        headers: Sent with every request to the `url`, for example `Authorization`. Default: none.
        env: Environment variables for the `command`, added to the few that any process needs. Default: none.
        tools: Only these tools are used, by the server's names. Default: all.
        needs_approval: Whether a person must approve a call: one policy for all tools, or one by the
            server's tool name. Default: the agent's `needs_approval` for `<name>_<tool>`.
        timeout_s: Seconds for one call, and for connecting. Default: 60.
        allow_private: Whether the `url` may lead to an address that is not public. Default: False.

    Raises `Invalid` if a value is not as described.
    """

    name: str
    url: str | None = None
    command: tuple[str, ...] | list[str] = ()
    headers: Mapping[str, str] = {}
    env: Mapping[str, str] = {}
    tools: Collection[str] | None = None
    needs_approval: ApprovalPolicy | None = None
    timeout_s: float = MCP_TIMEOUT_S
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
        if self.timeout_s <= 0:
            raise Invalid(f"MCP server {self.name}: timeout_s is more than 0")

    def __repr__(self) -> str:
        return f"McpServer(name={self.name!r})"  # the headers and variables may be secrets

    @property
    def prefix(self) -> str:
        """The beginning of the names of its tools."""
        return f"{self.name}_"

    def approval(self, tool: str) -> NeedsApproval[Any] | None:
        """The approval policy of a tool, by the server's name for it. None: the agent decides."""
        policy = self.needs_approval
        return policy.get(tool) if isinstance(policy, Mapping) else policy
