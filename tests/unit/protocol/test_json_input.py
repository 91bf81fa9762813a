"""JSON of JavaScript: half an emoji is U+FFFD, and 1.0 is the integer 1; all else stays as it is."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol import json_input
from rejoin_protocol.json_input import HALVES_MAX, convert, mend, mend_value

PIECES = (r"\ud83d", r"\ude00", r"\uD83D", r"\uDE00", r"\\", r"\n", r"\"", "ud83d", r"\u0041", "é", "😀", "a")
units = st.characters(min_codepoint=0, max_codepoint=0x10FFFF, categories=None)
any_text = st.text(st.one_of(units, st.sampled_from("\ud83d\ude00\udfff\ud800")))
any_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), any_text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(any_text, inner, max_size=4)),
    max_leaves=12,
)


def well_formed(text: str) -> str:
    """JavaScript's `toWellFormed`."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_each_half_of_a_pair_is_replaced_and_nothing_else(inside: str) -> None:
    text = f'"{inside}"'
    assert msgspec.json.decode(mend(text.encode())) == well_formed(json.loads(text))


@given(any_json)
def test_whatever_json_stringify_writes_can_be_read(value: Any) -> None:
    written = json.dumps(value).encode()
    read = msgspec.json.decode(mend(written))
    assert json.loads(well_formed(json.dumps(read, ensure_ascii=False))) == read
    assert mend(mend(written)) == mend(written)


@given(any_text)
def test_a_decoded_text_has_no_halves(text: str) -> None:
    assert mend_value({text: [text, 1, None]}) == {well_formed(text): [well_formed(text), 1, None]}


@pytest.mark.parametrize("text", [b"{}", rb'{"a": "\u0041\ud83d\ude00"}', b"\xff\xfe", b"", rb'"\\ud83d"'])
def test_what_needs_no_mending_stays_the_same_object(text: bytes) -> None:
    assert mend(text) is text


def test_a_byte_order_mark_is_left_out() -> None:
    assert mend(b'\xef\xbb\xbf{"a": 1}') == b'{"a": 1}'


def test_more_halves_than_any_text_has_are_not_mended() -> None:
    text = b'"' + rb"\ud83d" * (HALVES_MAX + 1) + b'"'
    assert mend(text) is text
    assert mend(text.replace(rb"\ud83d", b"", 1)) == b'"' + rb"\ufffd" * HALVES_MAX + b'"'


class Order(msgspec.Struct):
    count: int
    sizes: list[int]
    price: float = 0.0


def test_a_whole_number_may_be_written_as_a_float() -> None:
    order = convert({"count": 2.0, "sizes": [1, 3e2], "price": 4.0}, Order)
    assert order == Order(2, [1, 300], 4.0)
    assert type(order.count) is int
    assert type(order.price) is float


@pytest.mark.parametrize("count", [1.5, "1", True, None, float("inf"), 1e-3])
def test_anything_else_is_no_whole_number(count: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        convert({"count": count, "sizes": [1.0]}, Order)


def test_other_faults_are_told_as_msgspec_tells_them() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"got `str` - at `\$\.sizes\[0\]`"):
        convert({"count": 1, "sizes": ["1"]}, Order)
    assert not json_input.is_about_float(msgspec.ValidationError("Expected `int`, got `str`"))
