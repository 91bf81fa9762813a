"""How clients may write the names of a request context's fields. Pure.

An agent's schema has the names of its language. A client in another language writes `tenantId` in a body and
`tenant-id` in a header for the field `tenant_id`. The schema's own names win over such a spelling.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from rejoin_protocol.errors import Invalid

DEFINITIONS = "#/$defs/"
OPTIONS = ("anyOf", "oneOf", "allOf")
_WORD_START = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_UNDERSCORES = re.compile(r"(?<=[A-Za-z0-9])_+([A-Za-z0-9])")


def header_name(field: str) -> str:
    """The header in which clients send a field: `tenant_id` and `tenantId` as `tenant-id`."""
    return _WORD_START.sub("-", field).replace("_", "-").lower()


def read_headers(headers: Mapping[str, str], fields: Mapping[str, Any]) -> dict[str, str]:
    """The headers that are fields, by the fields' names. Case does not count, and `_` is as good as `-`."""
    values = {_as_header(name): _header_text(value) for name, value in headers.items()}
    own_names = {_as_header(field) for field in fields}
    found = {}
    for field in fields:
        spellings = (header_name(field), camel_case(field).lower())
        names = (_as_header(field), *(name for name in spellings if name not in own_names))
        name = next((name for name in names if name in values), None)
        if name is not None:
            found[field] = values[name]
    return found


def _header_text(value: str) -> str:
    """A header's value. One that is not UTF-8 is ISO 8859-1 (RFC 9110, section 5.5), as `fetch` sends it; it
    arrives with its bytes as halves of surrogate pairs.
    """
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode(errors="surrogateescape").decode("latin-1")
    return value


def _as_header(name: str) -> str:
    return name.replace("_", "-").lower()


def camel_case(field: str) -> str:
    """`tenant_id` as `tenantId`."""
    return _UNDERSCORES.sub(lambda match: match[1].upper(), field)


def with_schema_names(value: Any, schema: Any, root: Mapping[str, Any]) -> Any:
    """The value with the schema's names for its fields, at all depths. `root` has the schema's definitions.

    Raises `Invalid` if one field is there in two spellings.
    """
    schemas = list(_all_schemas(schema, root))
    match value:
        case dict():
            fields: dict[str, list[Any]] = {}
            for one in schemas:
                for field, field_schema in one.get("properties", {}).items():
                    fields.setdefault(field, []).append(field_schema)
            return _rename(value, fields, root)
        case list():
            items = {"anyOf": [one["items"] for one in schemas if "items" in one]}
            return [with_schema_names(item, items, root) for item in value]
        case _:
            return value


def _all_schemas(schema: Any, root: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The schema, and those that it refers to or chooses from."""
    if not isinstance(schema, dict):
        return
    yield schema
    reference = schema.get("$ref", "")
    if reference.startswith(DEFINITIONS):
        yield from _all_schemas(root.get("$defs", {}).get(reference.removeprefix(DEFINITIONS)), root)
    for rule in OPTIONS:
        for option in schema.get(rule, ()):
            yield from _all_schemas(option, root)


def _rename(
    value: dict[str, Any], fields: Mapping[str, list[Any]], root: Mapping[str, Any]
) -> dict[str, Any]:
    by_camel_case = {camel_case(field): field for field in fields}
    renamed = {}
    for name, item in value.items():
        field = name if name in fields else by_camel_case.get(name, name)
        if field != name and field in value:
            raise Invalid(f"context: {name} and {field} are the same field", "/context")
        renamed[field] = with_schema_names(item, {"anyOf": fields.get(field, [])}, root)
    return renamed


def as_sent(path: list[str], value: Any) -> list[str]:
    """A path of schema names in the client's spelling. `value` is the context that the client sent."""
    names = []
    for name in path:
        if isinstance(value, dict):
            spelled = name if name in value or camel_case(name) not in value else camel_case(name)
            value = value.get(spelled)
        elif isinstance(value, list) and name.isdigit():
            spelled, value = name, value[int(name)]
        else:
            spelled = name
        names.append(spelled)
    return names
