"""The JSON schemas of other people's tools: whether one is one, and what does not fit it. Pure.

Nothing is fetched: a schema is what it holds. Who has no such tools does not import this.
"""

from collections.abc import Mapping
from typing import Any

import jsonschema
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from protocol.errors import Invalid

MISFITS_MAX = 3


def check(schema: dict[str, Any]) -> None:
    """Raises `Invalid` for one that is none."""
    try:
        type(_validator(schema)).check_schema(schema)
    except (jsonschema.SchemaError, RecursionError) as fault:
        raise Invalid("its schema is none") from fault


def misfits(schema: Mapping[str, Any], value: Any) -> list[str]:
    """The first few things that do not fit, and where. Raises `Invalid` if the schema leads nowhere."""
    try:
        faults = sorted(_validator(schema).iter_errors(value), key=lambda fault: fault.json_path)
    except (Unresolvable, RecursionError) as fault:
        raise Invalid("the schema leads nowhere") from fault
    return [f"{fault.message} at {fault.json_path}" for fault in faults[:MISFITS_MAX]]


def _validator(schema: Mapping[str, Any]) -> Validator:
    kind = validator_for(schema, default=jsonschema.Draft202012Validator)
    registry: Registry[Any] = Registry()
    return kind(schema, registry=registry)
