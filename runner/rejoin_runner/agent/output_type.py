"""The type of an agent's answer: its JSON schema for models, and the check of what a model wrote."""

from collections.abc import Mapping
from typing import Any

import msgspec

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.partial_json import names_prototype
from rejoin_protocol.json_types import from_json
from rejoin_runner.models.model import OutputSpec
from rejoin_runner.tools.argument_schema import object_schema
from rejoin_runner.tools.schema_fault import find_fault_of_schema, find_foreign_fault, find_schema_fault

_ERROR_CHARS_MAX = 2_000


class OutputType(msgspec.Struct, frozen=True):
    """A type and how a model sees it. `type` is a JSON schema, or a type that JSON values are read as.
    `is_foreign`: the schema comes from a request, so answers are checked by it in bounded time, and no
    regular expression of it is run.
    """

    type: Any
    spec: OutputSpec
    is_foreign: bool = False

    def find_fault(self, value: Any) -> str | None:
        """What is wrong with JSON values; None if they fit. Raises what a validator of the application
        raises.
        """
        if not isinstance(value, dict):
            return "it is no JSON object"
        if names_prototype(value):
            return "it has a key that clients refuse (__proto__ or constructor.prototype)"
        if self.is_foreign:
            return find_foreign_fault(value, self.type)
        if isinstance(self.type, Mapping):
            return find_schema_fault(value, self.type)
        try:
            from_json(value, self.type)
        except msgspec.ValidationError as fault:
            return str(fault)[:_ERROR_CHARS_MAX]
        return None

    def read(self, value: Any) -> Any:
        """JSON values as an instance of the type; as they are if the type is a schema."""
        return value if isinstance(self.type, Mapping) else from_json(value, self.type)


def describe_output(agent: str, type: Any) -> OutputType:
    """The output type of an agent: a struct, dataclass, `TypedDict`, pydantic model, or a JSON schema.

    Raises `Invalid` if it cannot be written as JSON, or if its JSON is not an object.
    """
    schema = _schema_of(agent, type)
    if schema.get("type") != "object":
        raise Invalid(f"agent {agent}: its output is a type whose JSON is an object")
    title = schema.get("title")
    name = title if isinstance(title, str) and isinstance(type, Mapping) else getattr(type, "__name__", "")
    description = schema.get("description")
    return OutputType(
        type, OutputSpec(name or "output", description if isinstance(description, str) else "", schema)
    )


def _schema_of(agent: str, type: Any) -> dict[str, Any]:
    if isinstance(type, Mapping):
        if fault := find_fault_of_schema(type):
            raise Invalid(f"agent {agent}: its output is no JSON schema: {fault}")
        return dict(type)
    try:
        return object_schema(type)
    except (TypeError, KeyError) as fault:
        reason = (str(fault).splitlines() or [""])[0]
        raise Invalid(f"agent {agent}: its output cannot be written as JSON ({reason})") from fault
