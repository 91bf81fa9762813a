"""A tool of an MCP server, translated to a Rejoin tool: name, schema, result, policy after a crash. Pure.

Owns the translation; the calls are made by `connection`. A server's hints (read-only, idempotent) are its own
claims: they decide whether a call is retried, never whether a person must approve it.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_runner.mcp.server_declaration import McpServer
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_error import ToolError

TOOL_NAME_CHARS_MAX = 64
"""The longest tool name that every model provider takes."""
DESCRIPTION_CHARS_MAX = 8_192
SCHEMA_BYTES_MAX = 64 * 1024
MCP_ERROR_CHARS_MAX = 500
TOOL_NAME_DIGEST_CHARS = 8

type Send = Callable[["RemoteTool", Any, ToolContext[Any]], Awaitable[Any]]


class RemoteTool(Tool, frozen=True, kw_only=True):
    """A tool of an MCP server, with the schema that the server states."""

    remote_name: str
    """The server's name for it. Empty if the tool is unknown because its server was never connected."""

    @property
    def is_repeatable(self) -> bool:
        """Whether a call may be made twice: the server says that it is read-only or idempotent."""
        return self.on_crash == "retry"

    def check_arguments(self, input: Any) -> None:
        """See `Tool.check_arguments`."""
        from rejoin_runner.mcp import schema_check  # most runners have no MCP servers

        try:
            mismatches = "; ".join(schema_check.find_mismatches(self.spec.input_schema, input))
        except Invalid as fault:
            raise ToolError(
                "the arguments cannot be checked: the tool's schema has a broken reference"
            ) from fault
        if mismatches:
            raise ToolError(f"the arguments do not fit: {mismatches[:MCP_ERROR_CHARS_MAX]}")

    async def call(self, input: Any, context: ToolContext[Any]) -> Any:
        """See `Tool.call`."""
        self.check_arguments(input)
        return await self.limit_size(await self.function(self, input, context), context)


class UncheckedArguments(msgspec.Struct):
    """The argument type of a tool whose arguments are checked by its schema instead."""


def build_remote_tool(server: McpServer, listed: Mapping[str, Any], send: Send) -> RemoteTool:
    """The tool for an entry of `tools/list`.

    Raises `Invalid` if its schema is too large, invalid, or takes too long to check.
    """
    from rejoin_runner.mcp import schema_check  # see `check_arguments`

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
    """The tool of a server that was never connected: only its name is known, and every call fails."""
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
    """`<server>_<tool>` in characters that every model provider takes. A long name ends in a digest of it."""
    full_name = server.prefix + re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if len(full_name) <= TOOL_NAME_CHARS_MAX:
        return full_name
    digest = hashlib.sha256(name.encode()).hexdigest()[:TOOL_NAME_DIGEST_CHARS]
    return f"{full_name[: TOOL_NAME_CHARS_MAX - TOOL_NAME_DIGEST_CHARS - 1]}_{digest}"


def parse_result(result: Mapping[str, Any]) -> Any:
    """A `tools/call` result as a tool's output.

    That is the structured content, else the text; content other than text becomes
    `{"type": "content", "value": [...]}` as the AI SDK writes it.
    Raises `ToolError` with the result's text if the call failed.
    """
    items = [_to_content_item(block) for block in result.get("content") or ()]
    text = "\n".join(item["text"] for item in items if item["type"] == "text")
    if result.get("isError"):
        raise ToolError(text or "the tool failed and did not say why")
    structured = result.get("structuredContent")
    if any(item["type"] != "text" for item in items):
        if structured is not None and not text:
            items.append({"type": "text", "text": msgspec.json.encode(structured).decode()})
        return {"type": "content", "value": items}
    return text if structured is None else structured


def _to_content_item(block: Mapping[str, Any]) -> dict[str, Any]:
    """A content block of MCP as a content item of the AI SDK."""
    match block:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "image", "data": str(data), "mimeType": str(media_type)}:
            return {"type": "image-data", "data": data, "mediaType": media_type}
        case {"type": "audio", "data": str(data), "mimeType": str(media_type)}:
            return {"type": "file-data", "data": data, "mediaType": media_type}
        case {"type": "resource", "resource": {"text": str(text)}}:
            return {"type": "text", "text": text}
        case {"type": "resource", "resource": {"blob": str(data), **resource}}:
            kind = resource.get("mimeType") or "application/octet-stream"
            return {"type": "file-data", "data": data, "mediaType": kind}
        case {"type": "resource_link", "uri": str(uri), **link}:
            return {"type": "text", "text": f"{link.get('name') or 'resource'}: {uri}"}
        case _:
            return {"type": "text", "text": msgspec.json.encode(block).decode()}
