"""The JSON schemas of other people's tools: whether one is one, and what does not fit it.

Nothing is fetched: a schema is what it holds. Nor is it trusted with our time. No regular expression of it is
ever run: one that backtracks for minutes holds up the whole process, from any thread. What else takes too
long ends after a while of CPU time, for few lines of references can be billions of comparisons. A server
checks its input itself, so what is left unchecked here is checked there. Who has no such tools does not
import this.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from functools import cache
from time import thread_time
from typing import Any

import attrs
import jsonschema
from jsonschema.protocols import Validator
from jsonschema.validators import extend, validator_for
from referencing import Registry
from rejoin_protocol.errors import Invalid

MISFITS_MAX = 3
CHECK_S = 2.0
"""Of CPU, for a schema; the largest that anybody means takes a third of it."""
FIT_S = 0.1
"""Of CPU, for the arguments of a call, while the event loop waits."""
ENDLESS = ("pattern", "patternProperties", "unevaluatedItems", "unevaluatedProperties", "uniqueItems")
"""They run the regular expressions, or take as long as they like in one go."""
TURNED = ("not", "disallow", "if", "contains")
"""They refuse what fits a part, which is not known of one that is checked in part."""

_until: ContextVar[float] = ContextVar("until")


class CheckTimeout(Exception):
    """The time is over."""


def check_schema(schema: dict[str, Any]) -> None:
    """Raises `Invalid` for one that is none, or that nobody can check. Takes up to `CHECK_S`."""
    _until.set(thread_time() + CHECK_S)
    try:
        draft = _draft(schema)
        wrong = next(iter(_validator(draft, draft.META_SCHEMA).iter_errors(schema)), None)
    except CheckTimeout as fault:
        raise Invalid("its schema takes too long to check") from fault
    except Exception as fault:  # a stranger's schema breaks the library in many ways
        raise Invalid("its schema is none") from fault
    if wrong is not None:
        raise Invalid("its schema is none")


def find_mismatches(schema: Mapping[str, Any], value: Any) -> list[str]:
    """The first few things found in `FIT_S` that do not fit, and where. Raises `Invalid` if the schema leads
    nowhere.
    """
    _until.set(thread_time() + FIT_S)
    faults = []
    try:
        for fault in _validator(_draft(schema), schema).iter_errors(value):
            faults.append(fault)  # noqa: PERF402 - those found in time are kept
    except CheckTimeout:
        pass
    except Exception as fault:  # see `check`
        raise Invalid("the schema leads nowhere") from fault
    faults.sort(key=lambda fault: fault.json_path)
    return [f"{fault.message} at {fault.json_path}" for fault in faults[:MISFITS_MAX]]


def _draft(schema: Mapping[str, Any]) -> type[Validator]:
    return validator_for(schema, default=jsonschema.Draft202012Validator)


def _validator(draft: type[Validator], schema: Mapping[str, Any]) -> Validator:
    registry: Registry[Any] = Registry()
    return _careful(draft)(schema, registry=registry)


@cache
def _careful(draft: type[Validator]) -> type[Validator]:
    """The draft's validator, without what may take for ever, and without what cannot be said then."""
    beyond = draft.VALIDATORS["additionalProperties"]

    def additional(validator: Validator, wanted: Any, instance: Any, schema: Any) -> Iterable[Any]:
        return () if "patternProperties" in schema else beyond(validator, wanted, instance, schema)

    def nothing(*_: Any) -> Iterable[Any]:
        return ()

    own = {**dict.fromkeys((*ENDLESS, *TURNED), nothing), "additionalProperties": additional}
    if "oneOf" in draft.VALIDATORS:
        own["oneOf"] = draft.VALIDATORS["anyOf"]  # more than one may seem to fit
    careful: type[Validator] = extend(draft, own)  # type: ignore[no-untyped-call]
    careful.evolve = _evolve  # type: ignore[method-assign,assignment]
    return careful


def _evolve(validator: Any, **changes: Any) -> Any:
    """The validator of a part. The library's own goes back to its validators where a part names its draft."""
    if thread_time() > _until.get():
        raise CheckTimeout
    return attrs.evolve(validator, **changes)
