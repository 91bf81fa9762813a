"""From a function's signature to a struct for its arguments, and from a struct to a JSON schema."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.json_types import json_schema
from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools.docstring import parse_docstring
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext


def object_schema(struct: type) -> dict[str, Any]:
    """The JSON schema of a type with fields, as a schema of type object and not as a reference to one.

    Raises `TypeError` if a field has a type that JSON does not have.
    """
    schema = json_schema(struct)
    definitions: dict[str, Any] = schema.pop("$defs", {})
    reference = schema.pop("$ref", None)
    if reference is not None:
        name = reference.rsplit("/", 1)[-1]
        schema = dict(definitions[name])
        if reference.encode() not in msgspec.json.encode(definitions):  # else the type contains itself
            del definitions[name]
    schema.pop("title", None)
    if definitions:
        schema["$defs"] = definitions
    return schema


def build_spec(tool_name: str, docstring: str, arguments_type: type[msgspec.Struct]) -> ToolSpec:
    """The tool as a model sees it. A description in a parameter's annotation wins over the docstring's; that
    of a class, of which it describes every use, stands behind it.

    Raises `Invalid` if a parameter's type cannot be written as JSON.
    """
    try:
        schema = object_schema(arguments_type)
    except TypeError as fault:
        reason = str(fault).splitlines()[0]
        raise Invalid(f"tool {tool_name}: a parameter's type cannot be written as JSON: {reason}") from fault
    description = parse_docstring(docstring)
    for name, text in description.arguments.items():
        if (argument := schema["properties"].get(name)) is not None:
            of_class = argument.get("description", "") if "properties" in argument else ""
            described = {"description": f"{text} {of_class}".rstrip()}
            schema["properties"][name] = argument | described if of_class else described | argument
    return ToolSpec(tool_name, description.text, schema)


class Signature(NamedTuple):
    """A tool's signature: a struct with one field for each parameter, and the context that it takes."""

    arguments_type: type[msgspec.Struct]
    takes_context: bool
    context_type: type | None
    """`Shop` in `ToolContext[Shop]`. None: no context, `ToolContext[None]` or `ToolContext[Any]`."""


def read_signature(function: Callable[..., Any], tool_name: str) -> Signature:
    """What a tool's function takes.

    Raises `Invalid` if a parameter has no type, an unknown type, the wrong kind of context, or cannot be
    passed by name.
    """
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as fault:
        raise Invalid(
            f"tool {tool_name}: a parameter's type is not known where the tool is ({fault})"
        ) from fault
    fields: list[Any] = []
    takes_context, context_type = False, None
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        annotation = hints.get(parameter.name)
        if annotation is None:
            raise Invalid(f"tool {tool_name}: parameter {parameter.name} needs a type")
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise Invalid(f"tool {tool_name}: parameter {parameter.name} cannot be passed by name")
        if position == 0 and _is_context(annotation):
            _check_context(function, annotation, f"tool {tool_name}: {parameter.name}")
            takes_context, context_type = True, _context_type(annotation)
        elif parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            fields.append((parameter.name, annotation, parameter.default))
    try:
        struct = msgspec.defstruct(f"{tool_name}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
    except TypeError as fault:
        raise Invalid(f"tool {tool_name}: {fault}") from fault
    return Signature(struct, takes_context, context_type)


def _is_context(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", annotation) in (ToolContext, SyncToolContext)


def _context_type(annotation: Any) -> type | None:
    [argument] = getattr(annotation, "__args__", None) or [None]
    is_class = isinstance(argument, type) and argument not in (type(None), object)
    return argument if is_class else None


def _check_context(function: Callable[..., Any], annotation: Any, where: str) -> None:
    is_async = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
    expected: type[Any] = ToolContext if is_async else SyncToolContext
    if getattr(annotation, "__origin__", annotation) is not expected:
        raise Invalid(f"{where} must be a {expected.__name__} here")
