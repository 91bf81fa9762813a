"""Cursors: each is parsed back from its text, and any other text is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.errors import Invalid
from rejoin_protocol.log.cursor import Cursor, parse

numbers = st.integers(0, 9_999_999_999_999_999_999)


@given(st.builds(Cursor, numbers, numbers))
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor) -> None:
    assert parse(str(cursor)) == cursor


@given(st.text(alphabet="0123456789-+_ .\n٣", max_size=44) | st.text(max_size=10))
def test_a_text_is_one_cursors_text_or_no_cursor(text: str) -> None:
    try:
        cursor = parse(text)
    except Invalid:
        return
    assert str(cursor) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "1",
        "1-",
        "-1",
        "01-1",
        "1-01",
        "1-2\n",
        " 1-2",
        "+1-2",
        "1-2-3",
        "1_0-1",
        "٣-1",
        "9" * 20 + "-1",
    ],
)
def test_what_is_not_a_cursor_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(Invalid, match="not a cursor") as refused:
        parse(text)
    assert len(str(refused.value)) < 100


def test_a_long_text_is_not_said_back_whole() -> None:
    with pytest.raises(Invalid) as refused:
        parse("x" * 100_000)
    assert len(str(refused.value)) < 100
