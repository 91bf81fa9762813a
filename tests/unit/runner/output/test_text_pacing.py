"""Text is released at intervals, in whole words."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_runner.output.text_pacing import BUFFERED_CHARS_MAX, WORD_CHARS_MAX, TextPacer

texts = st.lists(st.tuples(st.text(alphabet="ab .\n界", max_size=12), st.floats(0, 0.05)), max_size=40)


def released(pieces: list[tuple[str, float]], interval_s: float) -> list[tuple[float, str]]:
    """What a pacer releases, with the times, if each text is followed by a pause and timers are exact."""
    pacer, now_s, out = TextPacer(interval_s), 0.0, list[tuple[float, str]]()
    for text, pause_s in pieces:
        if piece := pacer.add("t", text, now_s):
            out.append((now_s, piece))
        then_s = now_s + pause_s
        while (due_s := pacer.due_s()) is not None and due_s <= then_s:
            out += [(due_s, piece) for _, piece in pacer.take_due(due_s)]
        now_s = then_s
    now_s += pacer.wait_s("t", now_s)
    if rest := pacer.take_rest("t"):
        out.append((now_s, rest))
    return out


@given(texts)
def test_no_text_is_lost_and_none_added(pieces: list[tuple[str, float]]) -> None:
    assert "".join(text for _, text in released(pieces, 0.04)) == "".join(text for text, _ in pieces)


@pytest.mark.feature("F19")
@given(texts)
def test_pieces_are_an_interval_apart_and_end_with_whole_words(pieces: list[tuple[str, float]]) -> None:
    out = released(pieces, 0.04)
    for (earlier_s, text), (later_s, following) in pairwise(out):
        assert later_s - earlier_s >= 0.04 - 1e-9
        assert re.search(r"[\s界]$", text), (text, following)


@pytest.mark.feature("F19")
def test_five_hundred_characters_at_once_are_a_few_pieces() -> None:
    words = [f"word{number} " for number in range(80)]
    out = released([(word, 0.0) for word in words], 0.04)
    assert len("".join(words)) > 500
    assert len(out) <= 5


def test_without_an_interval_every_token_is_released_at_once() -> None:
    out = released([("a", 0.0), ("b c", 0.0), ("", 0.0), ("d", 0.0)], 0)
    assert [text for _, text in out] == ["a", "b c", "d"]


def test_a_word_that_never_ends_is_cut() -> None:
    assert TextPacer(0.04).add("t", "x" * (WORD_CHARS_MAX + 1), 0.0) == "x" * (WORD_CHARS_MAX + 1)
    assert TextPacer(0.04).add("t", "x" * WORD_CHARS_MAX, 0.0) == ""


def test_a_script_without_spaces_is_released_without_a_space() -> None:
    assert TextPacer(0.04).add("t", "今天天气", 0.0) == "今天天气"


def test_a_large_text_does_not_wait_for_its_interval() -> None:
    pacer = TextPacer(0.04)
    assert pacer.add("t", "a ", 0.0) == "a "
    assert pacer.add("t", "b " * BUFFERED_CHARS_MAX, 0.0) == "b " * BUFFERED_CHARS_MAX


def test_each_part_has_its_own_interval() -> None:
    pacer = TextPacer(0.04)
    assert pacer.add("t", "one ", 0.0) == "one "
    assert pacer.add("r", "two ", 0.0) == "two "
    assert pacer.add("t", "three ", 0.01) == ""
    assert pacer.due_s() == 0.04
    assert pacer.take_all() == [("t", "three ")]
    assert pacer.due_s() is None
