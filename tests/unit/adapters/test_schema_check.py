"""Values against schemas: what `jsonschema` says, in bounded time."""

import time
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rejoin_adapters.process import schema_check
from rejoin_adapters.process.schema_check import CheckTimeout, find_mismatch

LISTED = {"type": "array", "uniqueItems": True}
NAMED = {
    "type": "object",
    "properties": {"id": {"type": "integer"}},
    "patternProperties": {"^x-": {"type": "string", "pattern": "^[a-z]+$"}},
    "additionalProperties": False,
}
LOOSE = {"patternProperties": {"^x-": True}, "additionalProperties": {"type": "integer"}}
VALUES: list[tuple[dict[str, Any], list[Any]]] = [
    (LISTED, [[], [1, True, "1"], [1, 1.0], [[1], [True]], [["a", "b"], "a"], [None, None], "no list"]),
    (LISTED, [[{"a": 1, "b": 2}, {"b": 2, "a": 1.0}], [{"a": 1}, {"a": True}]]),
    (NAMED, [{}, {"id": 1, "x-a": "b"}, {"x-a": "B"}, {"x-a": 1}, {"y": 1}, {"id": "1"}, []]),
    (LOOSE, [{"a": 1, "x-a": "b"}, {"a": "1"}]),
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


NESTED: Any = []
for _ in range(3_000):
    NESTED = [NESTED]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (LISTED, [{"a": number} for number in range(20_000)]),
        ({"type": "array", "items": {"anyOf": [{"type": "object"}, {"type": "null"}]}}, [""] * 85_000),
    ],
    ids=["distinct objects", "mismatches"],
)
def test_what_the_library_takes_seconds_for_is_told_at_once(schema: dict[str, Any], value: Any) -> None:
    """20 s, and 3 s."""
    began_s = time.thread_time()
    find_mismatch(value, schema)
    assert time.thread_time() - began_s < schema_check.CHECK_S


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": r"\s+$"}, " " * 250_000 + "x"),
        ({"patternProperties": {r"\s+$": True}}, {" " * 250_000 + "x": 1}),
        ({"additionalProperties": False, "patternProperties": {r"\s+$": True}}, {" " * 250_000 + "x": 1}),
        ({"items": {"type": "integer"}}, [1] * 500_000),
        (LISTED, [{"a": number} for number in range(500_000)]),
        (LISTED, [NESTED]),
    ],
    ids=["pattern", "patterns of names", "other names", "many values", "many items", "deep"],
)
def test_what_takes_too_long_ends(
    monkeypatch: pytest.MonkeyPatch, schema: dict[str, Any], value: Any
) -> None:
    monkeypatch.setattr(schema_check, "CHECK_S", 0.05)
    with pytest.raises(CheckTimeout):
        find_mismatch(value, schema)
