"""Checks JSON values against JSON schemas in bounded CPU time.

`jsonschema` takes what it takes: it compares each item with all others for `uniqueItems`, runs patterns by
`re`, which may backtrack for ever, looks evaluated items and properties up in lists, and finds every mismatch
of a value. The value is a stranger's: 40 KB of distinct objects would hold up a process for 20 s. So a check
stops after a time, and these are replaced here. So is `multipleOf`, which fails for huge numbers.

For an application's schema, which is trusted, use `find_mismatch`. The parts below it serve those who check
by a schema that is not trusted either (`rejoin_runner.mcp.schema_check`). Imported only where needed: its
libraries take a while to load.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from fractions import Fraction
from functools import cache
from itertools import islice
from time import thread_time
from typing import Any

import attrs
import regex
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend

CHECK_S = 1.0
"""CPU seconds for one value. The largest tool result takes 0.7 s if it consists of the smallest values."""
COMPARED_MAX = 100
"""The most relevant one of so many first mismatches is told."""

_deadline: ContextVar[float] = ContextVar("deadline")
"""In `thread_time` seconds."""


class CheckTimeout(Exception):
    """The CPU time is used up, or the value is nested deeper than Python can follow."""


def find_mismatch(
    value: Any, schema: Mapping[str, Any], seconds: float | None = None
) -> ValidationError | None:
    """The most relevant mismatch of a value with an application's schema; None if it fits.

    `seconds`: of CPU, by default `CHECK_S`. Raises `CheckTimeout` if that is not found out in them.
    """
    begin(CHECK_S if seconds is None else seconds)
    try:
        errors = _class_for_applications()(schema).iter_errors(value)
        found: ValidationError | None = best_match(islice(errors, COMPARED_MAX))
    except RecursionError as fault:
        raise CheckTimeout from fault
    return found


def begin(seconds: float) -> None:
    """Give the check that follows in this thread so much CPU time."""
    _deadline.set(thread_time() + seconds)


def require_time() -> float:
    """The CPU seconds that are left. Raises `CheckTimeout` if there are none."""
    left_s = _deadline.get() - thread_time()
    if left_s < 0:
        raise CheckTimeout
    return left_s


def bounded(draft: type[Validator], keywords: Mapping[str, Callable[..., Iterable[Any]]]) -> type[Validator]:
    """The draft's validator class with these keywords in place of its own, which stops when the time is used
    up, and which calculates with any number.

    Raises `TypeError` if the installed `jsonschema` cannot be bounded.
    """
    exact = {name: _check_multiple for name in ("multipleOf", "divisibleBy") if name in draft.VALIDATORS}
    made: type[Validator] = extend(draft, {**exact, **keywords})  # type: ignore[no-untyped-call]
    made.evolve = _evolve  # type: ignore[method-assign,assignment]
    _require_bounds(made)
    return made


def _evolve(validator: Any, **changes: Any) -> Any:
    """The validator of a subschema. The library's own `evolve` would switch to its unbounded class where a
    subschema names its draft.
    """
    require_time()
    return attrs.evolve(validator, **changes)


def _require_bounds(made: type[Validator]) -> None:
    """Raises `TypeError` unless the class calls `_evolve` for subschemas.

    `jsonschema` calls `evolve` and builds its validators with `attrs`, but documents neither.
    """
    previous_deadline = _deadline.get()
    _deadline.set(0.0)
    try:
        list(made({"properties": {"x": {}}}).iter_errors({"x": 1}))
    except CheckTimeout:
        if attrs.has(made):
            return
    finally:
        _deadline.set(previous_deadline)
    raise TypeError("this version of jsonschema cannot be bounded")


@cache
def _class_for_applications() -> type[Validator]:
    return bounded(
        Draft202012Validator,
        {
            "pattern": _check_pattern,
            "patternProperties": _check_pattern_properties,
            "additionalProperties": _check_additional_properties,
            "uniqueItems": _check_unique_items,
            "unevaluatedItems": _check_unevaluated_items,
            "unevaluatedProperties": _check_unevaluated_properties,
        },
    )


def _matches(pattern: str, text: str) -> bool:
    try:
        return regex.search(pattern, text, timeout=require_time(), concurrent=True) is not None
    except TimeoutError as fault:
        raise CheckTimeout from fault


def _check_pattern(validator: Any, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "string") and not _matches(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _check_pattern_properties(
    validator: Any, patterns: Mapping[str, Any], value: Any, _: Any
) -> Iterator[ValidationError]:
    if validator.is_type(value, "object"):
        for pattern, subschema in patterns.items():
            for name, one in value.items():
                if _matches(pattern, name):
                    yield from validator.descend(one, subschema, path=name, schema_path=pattern)


def _check_additional_properties(
    validator: Any, allowed: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(value, "object"):
        return
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    for name, one in value.items():
        if name in known or any(_matches(pattern, name) for pattern in patterns):
            continue
        if allowed is False:
            yield ValidationError(f"Additional properties are not allowed ({name!r} was unexpected)")
        elif allowed is not True:
            yield from validator.descend(one, allowed, path=name)


def _check_multiple(validator: Any, divisor: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    if validator.is_type(value, "number") and not _is_multiple(value, divisor):
        yield ValidationError(f"{value!r} is not a multiple of {divisor!r}")


def _is_multiple(value: Any, divisor: Any) -> bool:
    """By the decimal numbers as written: as floats, 19.99 is no multiple of 0.01, and a huge integer has no
    quotient. Nothing is a multiple of 0.
    """
    try:
        return (Fraction(repr(value)) / Fraction(repr(divisor))).denominator == 1
    except (ZeroDivisionError, ValueError):  # ValueError: infinity and NaN are no decimal numbers
        return False


def _check_unique_items(validator: Any, wanted: Any, value: Any, _: Any) -> Iterator[ValidationError]:
    if not wanted or not validator.is_type(value, "array"):
        return
    seen = set()
    for item in value:
        require_time()
        key = _identity(item)
        if key in seen:
            yield ValidationError(f"{value!r} has non-unique elements")
            return
        seen.add(key)


def _check_unevaluated_items(
    validator: Any, _: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(value, "array"):
        return
    evaluated = _find_evaluated_items(validator, value, schema)
    unexpected = next((at for at in range(len(value)) if at not in evaluated), None)
    if unexpected is not None:
        yield ValidationError(f"Unevaluated items are not allowed ({value[unexpected]!r} was unexpected)")


def _check_unevaluated_properties(
    validator: Any, _: Any, value: Any, schema: Mapping[str, Any]
) -> Iterator[ValidationError]:
    if not validator.is_type(value, "object"):
        return
    evaluated = _find_evaluated_names(validator, value, schema)
    unexpected = next((name for name in value if name not in evaluated), None)
    if unexpected is not None:
        yield ValidationError(f"Unevaluated properties are not allowed ({unexpected!r} was unexpected)")


def _find_evaluated_items(validator: Any, value: list[Any], schema: Any) -> set[int]:
    """The places of the items that the schema says something about."""
    require_time()
    if not isinstance(schema, Mapping):
        return set()
    if "items" in schema:
        return set(range(len(value)))
    found = set(range(len(schema.get("prefixItems", ()))))
    for keyword in ("contains", "unevaluatedItems"):
        if keyword in schema:
            found.update(at for at, item in enumerate(value) if _fits(validator, item, schema[keyword]))
    for resolving, one in _applied(validator, value, schema):
        found |= _find_evaluated_items(resolving, value, one)
    return found


def _find_evaluated_names(validator: Any, value: dict[str, Any], schema: Any) -> set[str]:
    """The names of the properties that the schema says something about."""
    require_time()
    if not isinstance(schema, Mapping):
        return set()
    found = {name for name in schema.get("properties", ()) if name in value}
    for keyword in ("additionalProperties", "unevaluatedProperties"):
        if keyword in schema:
            found.update(name for name, one in value.items() if _fits(validator, one, schema[keyword]))
    for pattern in schema.get("patternProperties", ()):
        found.update(name for name in value if _matches(pattern, name))
    for name, one in schema.get("dependentSchemas", {}).items():
        if name in value:
            found |= _find_evaluated_names(validator, value, one)
    for resolving, one in _applied(validator, value, schema):
        found |= _find_evaluated_names(resolving, value, one)
    return found


def _applied(validator: Any, value: Any, schema: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """The subschemas that apply to the value itself and that it fits, each with the validator that resolves
    its references.
    """
    for keyword in ("$ref", "$dynamicRef"):
        if keyword in schema:
            target = validator._resolver.lookup(schema[keyword])  # noqa: SLF001 - as the library's keywords
            yield validator.evolve(schema=target.contents, _resolver=target.resolver), target.contents
    for keyword in ("allOf", "anyOf", "oneOf"):
        yield from ((validator, one) for one in schema.get(keyword, ()) if _fits(validator, value, one))
    if "if" in schema:
        fits = _fits(validator, value, schema["if"])
        if fits:
            yield validator, schema["if"]
        branch = "then" if fits else "else"
        if branch in schema:
            yield validator, schema[branch]


def _fits(validator: Any, value: Any, schema: Any) -> bool:
    return next(iter(validator.descend(value, schema)), None) is None


def _identity(value: Any) -> Any:
    """Equal for equal JSON values: 1 is 1.0, and is not true."""
    match value:
        case dict():
            return frozenset((name, _identity(one)) for name, one in value.items())
        case list():
            return tuple(map(_identity, value))
        case bool():
            return "bool", value
        case str():
            return "text", value
        case _:
            return value
