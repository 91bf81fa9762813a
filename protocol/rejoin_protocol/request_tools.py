"""Request tools: client tools that a request brings, because its client runs them. Pure.

Owns their form and their rules. The schemas are a stranger's: they are given to the model, and no value is
ever checked by them. References in a schema lead only into the schema itself, and what they amount to when
they are resolved is bounded, because providers want schemas without references.
"""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.limits import (
    REQUEST_TOOLS_BYTES_MAX,
    REQUEST_TOOLS_MAX,
    SCHEMA_DEPTH_MAX,
    SCHEMA_NODES_MAX,
)

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A name that every model provider takes."""
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}


class RequestTool(msgspec.Struct, frozen=True):
    """A tool of a request. `parameters`: the JSON schema of its arguments, of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


def parse_tool(name: Any, fields: Any, pointer: str) -> RequestTool:
    """The tool of a client: `{description?, parameters?}` under a name. Others of the fields are ignored.

    Raises `Invalid` with `pointer`.
    """
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        raise Invalid("the name of a tool has 1 to 64 letters, digits, - and _", pointer)
    description, parameters = fields.get("description"), fields.get("parameters")
    if not isinstance(description, str | None):
        raise Invalid(f"the description of tool {name} is a text", f"{pointer}/description")
    if parameters is None:
        parameters = NO_ARGUMENTS
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise Invalid(
            f"the parameters of tool {name} are a JSON schema of type object", f"{pointer}/parameters"
        )
    try:
        check_schema_size(parameters, f"{pointer}/parameters")
    except Invalid as fault:
        raise Invalid(f"the parameters of tool {name}: {fault.detail}", fault.pointer) from fault
    return RequestTool(name, description or "", parameters)


def check_schema_size(schema: dict[str, Any], pointer: str) -> None:
    """Raises `Invalid` with `pointer` if a stranger's schema is too large with its references resolved, or
    one of these leads out of it.
    """
    try:
        _measure(schema, schema, {}, 0)
    except Invalid as fault:
        raise Invalid(fault.detail, pointer) from fault


def check_tools(tools: Sequence[RequestTool], pointer: str) -> None:
    """Raises `Invalid` if the tools are too many or too large, or two have one name."""
    if len(tools) > REQUEST_TOOLS_MAX:
        raise Invalid(f"a request brings at most {REQUEST_TOOLS_MAX} tools, not {len(tools)}", pointer)
    names = [tool.name for tool in tools]
    if repeated := sorted(name for name in set(names) if names.count(name) > 1):
        raise Invalid(f"two tools have the name {repeated[0]}", pointer)
    check_bytes(tools, pointer)


def check_bytes(tools: Any, pointer: str) -> None:
    """Raises `Invalid` if the tools of a request are too large, parsed or as they were sent.

    Before they are parsed: it takes a hundredth of the time that measuring their schemas takes.
    """
    size = len(msgspec.json.encode(tools))
    if size > REQUEST_TOOLS_BYTES_MAX:
        raise Invalid(
            f"the tools of a request have at most {REQUEST_TOOLS_BYTES_MAX} bytes as JSON, not {size}",
            pointer,
        )


def find_reserved(tools: Sequence[RequestTool], reserved: Sequence[str]) -> str | None:
    """The name of a tool that an agent has reserved; None if there is none. `reserved`: names, and the
    beginnings of names with a `*` behind them.
    """
    prefixes = tuple(name.removesuffix("*") for name in reserved if name.endswith("*"))
    return next((one.name for one in tools if one.name in reserved or one.name.startswith(prefixes)), None)


def _measure(node: Any, schema: dict[str, Any], known: dict[str, int], depth: int) -> int:
    """How many values the node has, with each reference replaced by what it leads to. `known`: those of the
    references so far; one that leads to itself counts once.
    """
    if depth > SCHEMA_DEPTH_MAX:
        raise Invalid(f"a schema is nested at most {SCHEMA_DEPTH_MAX} deep, its references resolved")
    count = 1
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            if reference not in known:
                known[reference] = 1
                known[reference] = _measure(_resolve(reference, schema), schema, known, depth + 1)
            count += known[reference]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        count += _measure(child, schema, known, depth + 1)
        if count > SCHEMA_NODES_MAX:
            raise Invalid(f"a schema has at most {SCHEMA_NODES_MAX} values, its references resolved")
    return count


def _resolve(reference: str, schema: dict[str, Any]) -> Any:
    """What a reference within the schema leads to (RFC 6901). Raises `Invalid`."""
    node: Any = schema
    if reference != "#" and not reference.startswith("#/"):
        raise Invalid(f"{reference[:64]!r} leads out of the schema")
    for step in reference.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or name not in node:
            raise Invalid(f"{reference[:64]!r} leads nowhere")
        node = node[name]
    return node
