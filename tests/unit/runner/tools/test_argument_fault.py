"""A model reads what is wrong with the arguments that it wrote."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_runner.tools.argument_fault import describe_fault


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ('{"city": "Os', 'not complete JSON: they end after 12 characters, at `{"city": "Os`'),
        ('{"city": ', "not complete JSON: they end after 8 characters"),
        ('{"city"', "not complete JSON"),
        ('{"a": tru', "not complete JSON"),
        ('{"a": -', "not complete JSON"),
        ('{"a": "\\u00', "not complete JSON"),
        ('{"a": 1', "not complete JSON"),
        ("{", "not complete JSON: they end after 1 characters"),
        ('{"a": 1}{"b": 2}', 'not JSON: Extra data at character 9, behind `{"a": 1}`'),
        ("{'a': 1}", "not JSON: Expecting property name"),
        ('{"a": 1,}', "not JSON: "),
        ("city=Oslo", "not JSON: Expecting value at character 1"),
        ('"{\\"city\\": \\"Oslo\\"}"', "a JSON string, not an object"),
        ("[1]", "a JSON array, not an object"),
        ("7", "a JSON number, not an object"),
        ("null", "a JSON null, not an object"),
        ("true", "a JSON boolean, not an object"),
        ([1], "a JSON array, not an object"),
        (None, "a JSON null, not an object"),
        (1.5, "a JSON number, not an object"),
        ('{"a": NaN}', "there is no NaN in JSON"),
        ('{"a": -Infinity}', "there is no -Infinity in JSON"),
        ('{"__proto__": 1}', "a key that clients refuse"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_the_fault_is_named_with_its_place(value: object, words: str) -> None:
    assert words in describe_fault(value)


@given(
    st.dictionaries(
        st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()), min_size=1
    ),
    st.data(),
)
def test_every_text_that_was_cut_off_is_called_incomplete(
    value: dict[str, object], data: st.DataObject
) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    assert describe_fault(cut).startswith("the arguments are not complete JSON: they end after ")
