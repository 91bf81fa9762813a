"""The JSON schema of a function's arguments, made of its signature and its docstring."""

import inspect
import re
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec
from rejoin_protocol.errors import Invalid

from rejoin_runner.models.model import ToolSpec
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext

_SECTION = re.compile(r"(?m)^(?:Args|Arguments|Parameters):[ \t]*\n((?:(?:[ \t]+.*)?(?:\n|$))*)")


_ARGUMENT = re.compile(r"\*{0,2}(\w+)(?:\s*\([^)]*\))?:\s*(.*)")


def object_schema(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The JSON schema of a struct, itself at the top. Raises `TypeError` for what JSON does not have."""
    schema = msgspec.json.schema(kind)
    definitions = schema.pop("$defs")
    name = schema["$ref"].rsplit("/", 1)[-1]
    own: dict[str, Any] = definitions.pop(name)
    own.pop("title", None)
    if definitions:
        own["$defs"] = definitions
    return own


def build_spec(own: str, text: str, arguments: type[msgspec.Struct]) -> ToolSpec:
    """The tool as a model sees it."""
    try:
        schema = object_schema(arguments)
    except TypeError as fault:
        reason = str(fault).splitlines()[0]
        raise Invalid(f"tool {own}: a parameter's type cannot be written as JSON ({reason})") from fault
    description, described = _described(text, set(arguments.__struct_fields__))
    for name, said in described.items():
        schema["properties"][name].setdefault("description", said)
    return ToolSpec(own, description, schema)


def build_arguments_type(function: Callable[..., Any], own: str) -> tuple[type[msgspec.Struct], bool]:
    """The struct of a function's arguments, and whether its first parameter is a context."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as fault:
        raise Invalid(f"tool {own}: a parameter's type is not known where the tool is ({fault})") from fault
    fields: list[Any] = []
    takes_context = False
    for position, parameter in enumerate(inspect.signature(function).parameters.values()):
        annotation = hints.get(parameter.name)
        if annotation is None:
            raise Invalid(f"tool {own}: parameter {parameter.name} needs a type")
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise Invalid(f"tool {own}: parameter {parameter.name} cannot be given by name")
        kind = getattr(annotation, "__origin__", annotation)
        if position == 0 and kind in (ToolContext, SyncToolContext):
            plain = not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function))
            if plain is not (kind is SyncToolContext):
                wanted = "SyncToolContext" if plain else "ToolContext"
                raise Invalid(f"tool {own}: {parameter.name} must be a {wanted} here")
            takes_context = True
        elif parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            fields.append((parameter.name, annotation, parameter.default))
    try:
        struct = msgspec.defstruct(f"{own}_arguments", fields, kw_only=True, forbid_unknown_fields=True)
    except TypeError as fault:
        raise Invalid(f"tool {own}: {fault}") from fault
    return struct, takes_context


def _described(text: str, names: set[str]) -> tuple[str, dict[str, str]]:
    """A docstring without its `Args:` section, and what that says of the arguments."""
    section = _SECTION.search(text)
    if section is None:
        return text, {}
    described: dict[str, str] = {}
    last = None
    for line in inspect.cleandoc("\n" + section[1]).splitlines():
        match = _ARGUMENT.match(line)
        if match is not None and match[1] in names:
            last = match[1]
            described[last] = match[2].strip()
        elif last is not None and line.strip():
            described[last] = f"{described[last]} {line.strip()}".strip()
    rest = text[: section.start()] + text[section.end() :]
    return rest.strip(), described
