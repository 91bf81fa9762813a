"""The check of a foreign JSON schema is correct and bounded in time."""

import re
from typing import Any

import attrs
import pytest

from rejoin_protocol.errors import Invalid
from rejoin_runner.mcp import schema_check
from rejoin_runner.mcp.schema_check import check_schema, find_mismatches

RUNAWAY = "^(a+)+$"
HELD_UP = {"a" * 40 + "!": "a" * 40 + "!"}
"""Takes that expression some hours, as a name and as a value."""
FIELD = {"type": "string", "pattern": RUNAWAY}
DRAFTS = (
    "http://json-schema.org/draft-03/schema#",
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-06/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2019-09/schema",
    "https://json-schema.org/draft/2020-12/schema",
)


@pytest.mark.parametrize("named", [{}, *({"$schema": draft} for draft in DRAFTS)])
@pytest.mark.parametrize(
    "schema",
    [
        {"additionalProperties": FIELD},
        {"patternProperties": {RUNAWAY: {}}},
        {"patternProperties": {RUNAWAY: {}}, "additionalProperties": False},
        {"patternProperties": {RUNAWAY: {}}, "unevaluatedProperties": False},
        {"propertyNames": FIELD},
        {"definitions": {"a": FIELD}, "additionalProperties": {"$ref": "#/definitions/a"}},
        {"additionalProperties": {"anyOf": [FIELD, {"not": FIELD}]}},
        {"additionalProperties": {"$schema": DRAFTS[-1], "allOf": [FIELD]}},
        {"additionalProperties": {"$schema": DRAFTS[-3], "allOf": [FIELD]}},
        {"properties": {"p": {"$ref": "#"}}, "additionalProperties": FIELD},
    ],
    ids=" ".join,
)
def test_no_expression_of_a_stranger_is_run(
    schema: dict[str, Any], named: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any place of the schema, and for any draft that a part of the schema names."""
    search, found = re.search, []

    def seen(pattern: Any, *rest: Any, **options: Any) -> Any:
        found.append(pattern)
        return None if pattern == RUNAWAY else search(pattern, *rest, **options)

    monkeypatch.setattr(re, "search", seen)
    whole = {**named, "type": "object", **schema}
    check_schema(whole)
    assert RUNAWAY not in found
    assert "does not match" not in str(find_mismatches(whole, {**HELD_UP, "p": HELD_UP}))
    assert RUNAWAY not in found


def test_a_pattern_of_another_dialect_is_none_of_our_business() -> None:
    r"""Most servers write JavaScript's, where `\p{L}` and `(?<name>` are in order."""
    check_schema(
        {"type": "object", "properties": {"name": {"type": "string", "pattern": r"^(?<all>\p{L}+)$"}}}
    )


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {"pattern": "^b"}},
        {"oneOf": [{"pattern": "^a"}, {"pattern": "^b"}]},
        {"if": {"pattern": "^b"}, "then": {"type": "integer"}},
        {"$schema": DRAFTS[0], "disallow": [{"pattern": "^b"}]},
    ],
    ids=" ".join,
)
def test_what_is_not_checked_refuses_nothing(schema: dict[str, Any]) -> None:
    """Not even where it is what must not fit."""
    check_schema(schema)
    assert find_mismatches(schema, "abc") == []
    inside = {"items": schema, "contains": schema, "maxContains": 1}
    assert find_mismatches(inside, ["abc", "abd"]) == []


@pytest.mark.parametrize(
    ("schema", "value", "words"),
    [
        ({"type": "object"}, [], ["[] is not of type 'object' at $"]),
        ({"required": ["a"]}, {}, ["'a' is a required property at $"]),
        ({"properties": {"n": {"maximum": 3}}}, {"n": 4}, ["4 is greater than the maximum of 3 at $.n"]),
        (
            {"properties": {"a": {}}, "additionalProperties": False},
            {"a": 1, "b": 2},
            ["Additional properties are not allowed ('b' was unexpected) at $"],
        ),
        ({"$defs": {"i": {"type": "integer"}}, "items": {"$ref": "#/$defs/i"}}, [1, "x"], ["'x' is not of"]),
        ({"oneOf": [{"type": "integer"}, {"type": "null"}]}, "x", ["'x' is not valid under any of the"]),
        ({"enum": ["a", "b"]}, "c", ["'c' is not one of ['a', 'b'] at $"]),
        ({"items": {"type": "integer"}}, list("abcd"), ["at $[0]", "at $[1]", "at $[2]"]),
        ({"type": "string", "format": "date"}, "soon", []),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(
    schema: dict[str, Any], value: Any, words: list[str]
) -> None:
    """The first three faults. Formats are not checked."""
    check_schema(schema)
    found = find_mismatches(schema, value)
    assert len(found) == len(words)
    assert all(word in one for word, one in zip(words, found, strict=True))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "thing"},
        {"$schema": ["odd"]},
        {"properties": 3},
        {"properties": {"a": {"required": "yes"}}},
    ],
)
def test_what_is_no_schema_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="its schema is not valid"):
        check_schema(schema)


def test_a_schema_that_never_ends_inwards_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(2_000):
        schema = {"not": schema}
    with pytest.raises(Invalid, match="its schema is not valid"):
        check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:1/elsewhere"},
        {"$ref": "#/nowhere"},
        {"$ref": "#/title", "title": "no schema"},
        {"$ref": "#"},
    ],
)
def test_a_schema_that_leads_nowhere_is_told_as_one(schema: dict[str, Any]) -> None:
    check_schema(schema)
    with pytest.raises(Invalid, match="broken reference"):
        find_mismatches(schema, {"a": 1})


def test_references_that_double_forever_are_left_after_a_while() -> None:
    """Sixty lines that need 2 to the 60th comparisons: the errors found in time are returned."""
    doubled = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n - 1}"}] * 2} for n in range(1, 60)}
    schema = {"$defs": {"d0": {"type": "string"}, **doubled}, "$ref": "#/$defs/d59"}
    check_schema(schema)
    assert find_mismatches(schema, 1) == ["1 is not of type 'string' at $"] * 3
    assert find_mismatches(schema, "fits") == []


def test_a_schema_of_too_many_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a thousand times as long to check as to write."""
    monkeypatch.setattr(schema_check, "SCHEMA_CHECK_S", 0.1)
    with pytest.raises(Invalid, match="too long to check"):
        check_schema({"allOf": [{}] * 30_000})


def test_a_library_that_cannot_be_bounded_checks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unbounded check could block the process: the tool is left out, a call of it refused."""
    monkeypatch.setattr(attrs, "has", lambda _: False)
    schema_check._bounded_class.cache_clear()
    try:
        with pytest.raises(Invalid):
            schema_check.check_schema({"type": "object"})
        with pytest.raises(Invalid):
            schema_check.find_mismatches({"type": "object"}, {})
    finally:
        schema_check._bounded_class.cache_clear()
