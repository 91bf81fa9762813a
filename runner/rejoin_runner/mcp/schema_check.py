"""Checks the JSON schemas of MCP servers' tools, and arguments against them, in bounded CPU time.

A server's schema is not trusted. Nothing is fetched: references lead nowhere but into the schema itself. No
regular expression of it is run, because one that backtracks for minutes blocks the whole process, even from a
thread. Everything else stops after a bounded CPU time, because a few lines of nested references can mean
billions of comparisons. The server should check what is left unchecked here. Imported only where needed.

`jsonschema` and not `jsonschema-rs`: the latter has no time limit, and its native code cannot be interrupted.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import jsonschema
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for
from referencing import Registry

from rejoin_adapters.process.schema_check import CheckTimeout, begin, bounded
from rejoin_protocol.errors import Invalid

MISMATCHES_MAX = 3
SCHEMA_CHECK_S = 2.0
"""CPU seconds to check a schema. The largest schema in practice takes a third of it."""
ARGUMENTS_CHECK_S = 0.1
"""CPU seconds to check the arguments of a call: the event loop waits meanwhile."""
UNBOUNDED = ("pattern", "patternProperties", "unevaluatedItems", "unevaluatedProperties", "uniqueItems")
"""Keywords that run regular expressions, or take unbounded time in one step. They are not checked."""
INVERTING = ("not", "disallow", "if", "contains")
"""Keywords that invert a subschema. A partly checked subschema accepts too much, so inverting it would reject
valid values; these keywords are not checked.
"""


def check_schema(schema: dict[str, Any]) -> None:
    """Check a schema against its draft's meta-schema, in at most `SCHEMA_CHECK_S`.

    Raises `Invalid` if it is not a valid schema, or takes too long to check.
    """
    begin(SCHEMA_CHECK_S)
    try:
        draft = _draft(schema)
        error = next(iter(_validator(draft, draft.META_SCHEMA).iter_errors(schema)), None)
    except CheckTimeout as fault:
        raise Invalid("its schema takes too long to check") from fault
    except Exception as fault:  # an invalid schema makes the library raise many types
        raise Invalid("its schema is not valid") from fault
    if error is not None:
        raise Invalid("its schema is not valid")


def find_mismatches(schema: Mapping[str, Any], value: Any) -> list[str]:
    """The first mismatches of `value` that are found in `ARGUMENTS_CHECK_S`, as `<text> at <path>`.

    Raises `Invalid` if the schema has a broken reference.
    """
    begin(ARGUMENTS_CHECK_S)
    errors = []
    try:
        for error in _validator(_draft(schema), schema).iter_errors(value):
            errors.append(error)  # noqa: PERF402 - the errors found in time are kept
    except CheckTimeout:
        pass
    except Exception as fault:  # see `check_schema`
        raise Invalid("the schema has a broken reference") from fault
    errors.sort(key=lambda error: error.json_path)
    return [f"{error.message} at {error.json_path}" for error in errors[:MISMATCHES_MAX]]


def _draft(schema: Mapping[str, Any]) -> type[Validator]:
    return validator_for(schema, default=jsonschema.Draft202012Validator)


def _validator(draft: type[Validator], schema: Mapping[str, Any]) -> Validator:
    registry: Registry[Any] = Registry()
    return _bounded_class(draft)(schema, registry=registry)


@cache
def _bounded_class(draft: type[Validator]) -> type[Validator]:
    """The draft's validator class without unbounded keywords, and without those that depend on them.

    Raises `TypeError` if the installed `jsonschema` cannot be bounded.
    """
    check_additional = draft.VALIDATORS["additionalProperties"]

    def check_additional_unless_patterns(
        validator: Validator, expected: Any, instance: Any, schema: Any
    ) -> Iterable[Any]:
        # With `patternProperties`, which is not checked, any property may be allowed.
        return (
            () if "patternProperties" in schema else check_additional(validator, expected, instance, schema)
        )

    def accept(*_: Any) -> Iterable[Any]:
        return ()

    keywords = {
        **dict.fromkeys((*UNBOUNDED, *INVERTING), accept),
        "additionalProperties": check_additional_unless_patterns,
    }
    if "oneOf" in draft.VALIDATORS:
        # Several partly checked subschemas may accept the value, so `oneOf` is relaxed to `anyOf`.
        keywords["oneOf"] = draft.VALIDATORS["anyOf"]
    return bounded(draft, keywords)
