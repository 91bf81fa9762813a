"""Types whose values are read from JSON and written to it: msgspec's own, and pydantic's models.

msgspec reads and writes structs, dataclasses, `TypedDict`, enums, dates and containers of these by itself.
The three hooks here add pydantic's models, also inside of the others. pydantic is not imported: a type that
has pydantic's methods is one of its models.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from rejoin_protocol import json_input


def json_schema(type: Any) -> dict[str, Any]:
    """The JSON schema of a type. All definitions stand in `$defs` of the schema itself.

    Raises `TypeError` if the type, or one inside of it, cannot be written as JSON.
    """
    if _is_pydantic_model(type):
        return _pydantic_schema(type)
    schema = msgspec.json.schema(type, schema_hook=_pydantic_schema)
    definitions = schema.pop("$defs", {})
    for inner in (*definitions.values(), schema):
        definitions = {**definitions, **dict(_take_definitions(inner))}
    if definitions:
        schema["$defs"] = definitions
    return schema


def from_json[T](value: Any, type: type[T]) -> T:
    """The value of a type that JSON values describe. Raises `msgspec.ValidationError`, which says where."""
    if _is_pydantic_model(type):
        try:
            model: T = _read_pydantic(type, value)
        except ValueError as fault:
            raise msgspec.ValidationError(str(fault)) from None
        return model
    return json_input.convert(value, type, dec_hook=_read_pydantic)


def to_json(value: Any) -> bytes:
    """The value as JSON text, with U+FFFD for each half of a surrogate pair.

    Raises `TypeError` or `ValueError` if it cannot be written as JSON.
    """
    try:
        return msgspec.json.encode(value, enc_hook=_write_pydantic)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value, enc_hook=_write_pydantic)
        return msgspec.json.encode(json_input.mend_value(plain))


def _is_pydantic_model(type: Any) -> bool:
    return hasattr(type, "model_json_schema") and hasattr(type, "model_validate")


def _pydantic_schema(type: Any) -> dict[str, Any]:
    if not _is_pydantic_model(type):
        raise TypeError(f"{getattr(type, '__name__', type)} has no JSON form")
    # Two models of one name in different modules must not share a definition.
    schema: dict[str, Any] = type.model_json_schema(ref_template=f"#/$defs/{type.__name__}_{{model}}")
    definitions = schema.pop("$defs", {})
    if definitions:
        schema["$defs"] = {f"{type.__name__}_{name}": inner for name, inner in definitions.items()}
    return schema


def _read_pydantic(type: Any, value: Any) -> Any:
    if not _is_pydantic_model(type):
        raise TypeError(f"{getattr(type, '__name__', type)} has no JSON form")
    try:
        return type.model_validate(value)
    except ValueError as fault:  # pydantic's ValidationError is one
        errors = getattr(fault, "errors", None)
        if errors is None:
            raise
        raise ValueError("; ".join(f"{_place(error, type)}: {error['msg']}" for error in errors())) from None


def _place(error: Any, type: Any) -> str:
    return ".".join(map(str, error["loc"])) or str(type.__name__)


def _write_pydantic(value: Any) -> Any:
    if not _is_pydantic_model(type(value)):
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return value.model_dump(mode="json")


def _take_definitions(schema: Any) -> Iterator[tuple[str, Any]]:
    """Remove the `$defs` below a schema, and yield them."""
    children = list(schema.values()) if isinstance(schema, dict) else schema
    if isinstance(schema, dict) and "$defs" in schema:
        yield from schema.pop("$defs").items()
    for child in children:
        if isinstance(child, dict | list):
            yield from _take_definitions(child)
