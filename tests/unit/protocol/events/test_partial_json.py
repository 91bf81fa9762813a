"""Incomplete JSON is parsed exactly as the AI SDK parses it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from rejoin_protocol.events.partial_json import names_prototype, parse
from tests.support.data.chunk_strategies import json_values, vectors

plain_values = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers())


@pytest.mark.parametrize("read", vectors("partial-json.json")["reads"], ids=lambda read: repr(read["text"]))
def test_a_text_is_read_as_the_client_reads_it(read: dict[str, Any]) -> None:
    assert parse(read["text"]) == (read["state"], read.get("value", UNSET))


@given(json_values)
def test_whole_json_is_read_as_it_is(value: Any) -> None:
    assert parse(json.dumps(value)) == ("successful-parse", value)


# The client loses its way at an escaped quote within a key, and so do we.
plain_keys = st.text().filter(lambda key: '"' not in key and key != "__proto__")


@given(st.dictionaries(plain_keys, plain_values, max_size=4), st.data())
def test_every_beginning_of_an_object_is_an_object_of_its_first_keys(
    value: dict[str, Any], data: st.DataObject
) -> None:
    text = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    end = data.draw(st.integers(1, len(text) - 1))
    state, read = parse(text[:end])
    assert state == "repaired-parse"
    assert isinstance(read, dict)
    assert list(read) == list(value)[: len(read)]


@given(st.text())
def test_any_text_has_a_reading(text: str) -> None:
    state, value = parse(text)
    assert (value is UNSET) is (state == "failed-parse")


def test_numbers_are_what_javascript_holds() -> None:
    assert parse("[9007199254740993,1e400,-0]") == ("successful-parse", [2.0**53, None, 0])
    assert parse("9" * 5_000) == ("successful-parse", None)


def test_a_text_nested_too_deeply_is_not_read() -> None:
    assert parse("[" * 200_000) == ("failed-parse", UNSET)


@pytest.mark.parametrize(
    ("value", "is_so"),
    [
        ({"a": [{"__proto__": None}]}, True),
        ({"constructor": {"prototype": 1}}, True),
        ({"constructor": 1, "prototype": {}}, False),
        ({"constructor": ["prototype"]}, False),
        ("__proto__", False),
    ],
)
def test_a_key_names_a_prototype_however_deep_it_is(value: Any, *, is_so: bool) -> None:
    assert names_prototype(value) is is_so
