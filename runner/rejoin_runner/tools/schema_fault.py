"""What is wrong with a JSON value by an application's JSON schema (draft 2020-12), in one sentence."""

from collections.abc import Mapping
from typing import Any

SCHEMA_FAULT_CHARS_MAX = 500
SCHEMA_FAULT_S = 0.1
"""CPU seconds to check what a model wrote: the event loop waits meanwhile. Enough for about 10,000 values."""


def find_schema_fault(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Why the value does not fit the schema, and where; None if it fits."""
    from rejoin_adapters.process import schema_check  # loads with the first type that is a schema

    try:
        fault = schema_check.find_mismatch(value, schema, SCHEMA_FAULT_S)
    except schema_check.CheckTimeout:
        return f"checking them takes more than {SCHEMA_FAULT_S:g} s"
    return None if fault is None else f"{fault.message[:SCHEMA_FAULT_CHARS_MAX]} at {fault.json_path}"


def find_foreign_fault(value: Any, schema: Mapping[str, Any]) -> str | None:
    """As `find_schema_fault`, for the schema of a request. Raises `Invalid` if it has a broken reference."""
    from rejoin_runner.mcp.schema_check import find_mismatches

    faults = find_mismatches(schema, value)
    return faults[0][:SCHEMA_FAULT_CHARS_MAX] if faults else None


def find_fault_of_schema(schema: Mapping[str, Any]) -> str | None:
    """Why this is no JSON schema; None if it is one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as fault:
        return fault.message[:SCHEMA_FAULT_CHARS_MAX]
    return None
