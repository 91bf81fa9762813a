"""Tools that live in MCP servers: how an agent names the servers, and what their tools become here. Pure.

Owns the translation between a server's words and ours: names, schemas, results, what may be made again after
a crash. It calls nobody. What a server says of its tools is its own claim; what a person must be asked is the
application's, never the server's.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from rejoin_protocol.errors import Invalid

from rejoin_runner.mcp.server import McpServer
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools.tool import Tool, ToolError
from rejoin_runner.tools.tool_context import ToolContext

TOOL_NAME_CHARS_MAX = 64
"""What every model provider takes."""
DESCRIPTION_CHARS_MAX = 8_192
SCHEMA_BYTES_MAX = 64 * 1024
TOOLS_MAX = 128
"""Of one server. A model that is shown more finds none of them."""
FAULT_CHARS_MAX = 500
DIGEST_CHARS = 8

type Send = Callable[["RemoteTool", Any, ToolContext[Any]], Awaitable[Any]]


class RemoteTool(Tool, frozen=True, kw_only=True):
    """A tool of an MCP server, its schema as given. `remote_name` is the server's name for it; it is empty if
    nothing is known of the tool, because its server has not been there yet.
    """

    remote_name: str

    @property
    def repeatable(self) -> bool:
        """Whether doing it twice is doing it once, by the server's own account."""
        return self.on_crash == "retry"

    def check_arguments(self, input: Any) -> None:
        """See `Tool`."""
        from rejoin_runner.mcp import schema_check  # most runners have no tools of others

        try:
            found = "; ".join(schema_check.find_mismatches(self.spec.input_schema, input))
        except Invalid as fault:
            raise ToolError("the arguments cannot be checked: the tool's schema leads nowhere") from fault
        if found:
            raise ToolError(f"the arguments do not fit: {found[:FAULT_CHARS_MAX]}")

    async def call(self, input: Any, context: ToolContext[Any]) -> Any:
        """See `Tool`."""
        self.check_arguments(input)
        return await self.limit_size(await self.function(self, input, context), context)


class UncheckedArguments(msgspec.Struct):
    """The arguments of a tool that checks them itself."""


def build_remote_tool(server: McpServer, listed: Mapping[str, Any], send: Send) -> RemoteTool:
    """One of a server's tools, from what `tools/list` says of it. Raises `Invalid` for one that cannot be."""
    from rejoin_runner.mcp import schema_check  # see `check`

    name, schema = listed["name"], listed["inputSchema"]
    if len(msgspec.json.encode(schema)) > SCHEMA_BYTES_MAX:
        raise Invalid(f"its schema is larger than {SCHEMA_BYTES_MAX // 1024} KiB")
    schema_check.check_schema(schema)
    hints = listed.get("annotations") or {}
    repeatable = hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True
    description = (listed.get("description") or listed.get("title") or name)[:DESCRIPTION_CHARS_MAX]
    return RemoteTool(
        ToolSpec(tool_name(server, name), description, schema),
        send,
        UncheckedArguments,
        takes_context=True,
        needs_approval=server.approval(name),
        on_crash="retry" if repeatable else "report",
        timeout_s=server.timeout_s,
        remote_name=name,
    )


def build_absent_tool(server: McpServer, name: str, send: Send) -> RemoteTool:
    """A tool of which nothing is known but its name here, because its server has not been there yet."""
    return RemoteTool(
        ToolSpec(name, "", {}),
        send,
        UncheckedArguments,
        takes_context=True,
        needs_approval=None if isinstance(server.needs_approval, Mapping) else server.needs_approval,
        on_crash="report",
        timeout_s=server.timeout_s,
        remote_name="",
    )


def tool_name(server: McpServer, name: str) -> str:
    """`<server>_<tool>` in letters that every model provider takes; a long one ends in its digest."""
    whole = server.prefix + re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if len(whole) <= TOOL_NAME_CHARS_MAX:
        return whole
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_CHARS]
    return f"{whole[: TOOL_NAME_CHARS_MAX - DIGEST_CHARS - 1]}_{digest}"


def parse_result(result: Mapping[str, Any]) -> Any:
    """A result as a tool's output: its structured content, its text, or all of its content in the AI SDK's
    words. Raises `ToolError` with the words of one that failed.
    """
    items = [_shown(one) for one in result.get("content") or ()]
    text = "\n".join(one["text"] for one in items if one["type"] == "text")
    if result.get("isError"):
        raise ToolError(text or "the tool failed and did not say why")
    structured = result.get("structuredContent")
    if any(one["type"] != "text" for one in items):
        if structured is not None and not text:
            items.append({"type": "text", "text": msgspec.json.encode(structured).decode()})
        return {"type": "content", "value": items}
    return text if structured is None else structured


def _shown(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block of content as the AI SDK writes it."""
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image", "data": str(data), "mimeType": str(kind)}:
            return {"type": "image-data", "data": data, "mediaType": kind}
        case {"type": "audio", "data": str(data), "mimeType": str(kind)}:
            return {"type": "file-data", "data": data, "mediaType": kind}
        case {"type": "resource", "resource": {"text": str(text)}}:
            return {"type": "text", "text": text}
        case {"type": "resource", "resource": {"blob": str(data), **resource}}:
            media_type = resource.get("mimeType") or "application/octet-stream"
            return {"type": "file-data", "data": data, "mediaType": media_type}
        case {"type": "resource_link", "uri": str(uri), **link}:
            return {"type": "text", "text": f"{link.get('name') or 'resource'}: {uri}"}
        case _:
            return {"type": "text", "text": msgspec.json.encode(block).decode()}
