"""Values against schemas: what `jsonschema` says, in bounded time."""

import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rejoin_adapters.process import schema_check
from rejoin_adapters.process.schema_check import CheckTimeout, find_mismatch
from rejoin_runner.mcp.schema_check import find_mismatches

LISTED = {"type": "array", "uniqueItems": True}
NAMED = {
    "type": "object",
    "properties": {"id": {"type": "integer"}},
    "patternProperties": {"^x-": {"type": "string", "pattern": "^[a-z]+$"}},
    "additionalProperties": False,
}
LOOSE = {"patternProperties": {"^x-": True}, "additionalProperties": {"type": "integer"}}
CLOSED = {
    "properties": {"a": True},
    "patternProperties": {"^x-": {"type": "string"}},
    "allOf": [{"$ref": "#/$defs/b"}, {"properties": {"no": False}}],
    "anyOf": [{"required": ["c"], "properties": {"c": True}}, True],
    "oneOf": [{"required": ["d"], "properties": {"d": True}}, {"not": {"required": ["d"]}}],
    "if": {"properties": {"kind": {"const": 1}}, "required": ["kind"]},
    "then": {"properties": {"one": True}},
    "else": {"properties": {"other": True}},
    "dependentSchemas": {"a": {"properties": {"with": True}}},
    "unevaluatedProperties": False,
    "$defs": {"b": {"properties": {"b": True}}},
}
TUPLE = {
    "prefixItems": [{"type": "integer"}],
    "contains": {"const": "x"},
    "minContains": 0,
    "allOf": [{"$ref": "#/$defs/two"}],
    "anyOf": [{"prefixItems": [True, True, {"const": 3}]}, True],
    "if": {"prefixItems": [{"const": 7}]},
    "then": {"items": True},
    "unevaluatedItems": False,
    "$defs": {"two": {"prefixItems": [True, {"type": "string"}]}},
}
VALUES: list[tuple[dict[str, Any], list[Any]]] = [
    (LISTED, [[], [1, True, "1"], [1, 1.0], [[1], [True]], [["a", "b"], "a"], [None, None], "no list"]),
    (LISTED, [[{"a": 1, "b": 2}, {"b": 2, "a": 1.0}], [{"a": 1}, {"a": True}]]),
    (NAMED, [{}, {"id": 1, "x-a": "b"}, {"x-a": "B"}, {"x-a": 1}, {"y": 1}, {"id": "1"}, []]),
    (LOOSE, [{"a": 1, "x-a": "b"}, {"a": "1"}]),
    (CLOSED, [{}, {"a": 1, "with": 1, "x-1": "", "b": 1, "c": 1, "d": 1}, {"with": 1}, {"x-1": 1}, {"z": 1}]),
    (CLOSED, [{"kind": 1, "one": 1}, {"one": 1}, {"other": 1}, {"kind": 1, "other": 1}, [], {"no": 1}]),
    (TUPLE, [[], [1], [1, "a", 3], [1, "a", 4], [1, "a", "x"], [1, "a", "y"], [7, "a", 8, 9], [1, 2], {}]),
    ({"unevaluatedProperties": {"type": "integer"}}, [{"a": 1}, {"a": "1"}]),
    ({"unevaluatedItems": {"type": "integer"}, "prefixItems": [True]}, [["a", 1], ["a", "b"]]),
    ({"items": True, "unevaluatedItems": False}, [[1]]),
    ({"additionalProperties": True, "unevaluatedProperties": False}, [{"a": 1}]),
    ({"$dynamicRef": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": NAMED}}, [{"id": 1}]),
    ({"uniqueItems": False}, [[1, 1]]),
    ({"pattern": "b"}, ["abc", 7]),
    ({"pattern": "^b"}, ["abc"]),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}}, "b": {"const": 1}}}, [[1, 2]]),
]
CASES = [(schema, value) for schema, values in VALUES for value in values]


@pytest.mark.parametrize(("schema", "value"), CASES, ids=str)
def test_it_agrees_with_the_library(schema: dict[str, Any], value: Any) -> None:
    expected = next(iter(Draft202012Validator(schema).iter_errors(value)), None)
    found = find_mismatch(value, schema)
    assert (found is None) is (expected is None)
    if found is not None and expected is not None:
        assert (found.json_path, found.validator) == (expected.json_path, expected.validator)


def test_a_fault_says_what_and_where() -> None:
    fault = find_mismatch({"x-a": "B"}, NAMED)
    assert fault is not None
    assert (fault.message, fault.json_path) == ("'B' does not match '^[a-z]+$'", "$['x-a']")


HUGE = 10**400


@pytest.mark.parametrize(
    ("value", "divisor", "fits"),
    [
        (6, 3, True),
        (7, 3, False),
        (19.99, 0.01, True),
        (19.995, 0.01, False),
        (HUGE, HUGE, True),
        (HUGE + 1, HUGE, False),
        (1.5, HUGE, False),
        (0, HUGE, True),
        (HUGE, 0.1, True),
        (HUGE, 0.3, False),
        (1e308, 1e-308, True),
        (1e308, 5e-324, True),
        (5e-324, 1e308, False),
        (-3, 1.5, True),
        (3, 0, False),
        (3, 0.0, False),
        (float("inf"), 2, False),
        (float("nan"), 0.5, False),
        (True, 7, True),
    ],
    ids=str,
)
def test_multiples_are_exact_for_every_number(value: Any, divisor: Any, fits: bool) -> None:
    """In both checks: of an application's schema, and of a schema from elsewhere."""
    schema = {"multipleOf": divisor}
    fault, foreign = find_mismatch(value, schema), find_mismatches(schema, value)
    assert (fault is None) is (foreign == []) is fits
    if fault is not None:
        assert foreign == [f"{fault.message} at $"] == [f"{value!r} is not a multiple of {divisor!r} at $"]


def test_the_oldest_draft_calls_it_otherwise() -> None:
    schema = {"$schema": "http://json-schema.org/draft-03/schema#", "divisibleBy": HUGE}
    assert find_mismatches(schema, 1.5) == [f"1.5 is not a multiple of {HUGE} at $"]


@pytest.mark.parametrize(
    "schema",
    [
        {"maximum": HUGE, "minimum": -HUGE, "exclusiveMaximum": 1e308, "exclusiveMinimum": 5e-324},
        {"const": HUGE},
        {"enum": [HUGE, 1.5]},
        {"type": "integer"},
        {"minLength": HUGE, "minItems": HUGE, "minProperties": HUGE},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "value", [HUGE, 1.5, -1e308, 5e-324, float("inf"), float("nan"), "", [], {}], ids=str
)
def test_huge_numbers_are_compared(schema: dict[str, Any], value: Any) -> None:
    expected = next(iter(Draft202012Validator(schema).iter_errors(value)), None)
    assert (find_mismatch(value, schema) is None) is (expected is None)


NESTED: Any = []
for _ in range(3_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (LISTED, [{"a": number} for number in range(20_000)]),
        ({"type": "array", "items": {"anyOf": [{"type": "object"}, {"type": "null"}]}}, [""] * 85_000),
        ({"unevaluatedItems": False, "contains": True}, [1] * 30_000),
        (
            {"unevaluatedProperties": False, "patternProperties": {"": {}}},
            dict.fromkeys(map(str, range(10_000))),
        ),
    ],
    ids=["distinct objects", "mismatches", "items", "properties"],
)
def test_what_the_library_takes_seconds_for_is_told_at_once(schema: dict[str, Any], value: Any) -> None:
    """20 s, 3 s, 7 s and 1 s."""
    began_s = time.thread_time()
    find_mismatch(value, schema)
    assert time.thread_time() - began_s < schema_check.CHECK_S


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": r"\s+$"}, " " * 250_000 + "x"),
        ({"patternProperties": {r"\s+$": True}}, {" " * 250_000 + "x": 1}),
        ({"additionalProperties": False, "patternProperties": {r"\s+$": True}}, {" " * 250_000 + "x": 1}),
        ({"unevaluatedProperties": False, "patternProperties": {r"\s+$": True}}, {" " * 250_000 + "x": 1}),
        ({"unevaluatedProperties": False, "patternProperties": {"^(a|a)*$": {}}}, {"a" * 22 + "b": 1}),
        ({"unevaluatedItems": {"type": "integer"}}, [1] * 500_000),
        ({"items": {"type": "integer"}}, [1] * 500_000),
        (LISTED, [{"a": number} for number in range(500_000)]),
        (LISTED, [NESTED]),
        ({"$ref": "#"}, 1),
        ({"items": {"$ref": "#"}}, NESTED),
    ],
    ids=[
        "pattern",
        "patterns of names",
        "other names",
        "unevaluated names",
        "backtracking",
        "unevaluated items",
        "many values",
        "many items",
        "deep",
        "a reference to itself",
        "deep references",
    ],
)
def test_what_takes_too_long_ends(
    monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], value: Any
) -> None:
    monkeypatch.setattr(schema_check, "CHECK_S", 0.05)
    with pytest.raises(CheckTimeout):
        find_mismatch(value, schema)
