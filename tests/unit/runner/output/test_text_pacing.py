"""Text is released at intervals, in whole words where the model is fast, and never late."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_runner.output.text_pacing import (
    ARRIVAL_S,
    BUFFERED_CHARS_MAX,
    TICKS,
    WORD_CHARS_MAX,
    WORD_SHARE,
    TextPacer,
)

INTERVAL_S = 0.04
WORD_S, TICK_S = INTERVAL_S * WORD_SHARE, INTERVAL_S / TICKS
ROUNDING_S = 1e-7

type Timed = tuple[float, str]

tokens = st.text(alphabet="ab .\n界", max_size=12)
FAST = [("a ", 0.01)] * 40
"""After these the model counts as fast."""
fast_texts = st.lists(st.tuples(tokens, st.floats(0, WORD_S - 2 * ARRIVAL_S)), max_size=40)
texts = st.lists(st.tuples(tokens, st.floats(0, 0.12)), max_size=40) | fast_texts.map(
    lambda rest: FAST + rest
)


def released(pieces: Sequence[tuple[str, float]], interval_s: float = INTERVAL_S) -> list[Timed]:
    """What a pacer releases, with the times, if each text is followed by a pause and timers are exact."""
    pacer, now_s, out = TextPacer(interval_s), 0.0, list[Timed]()
    for text, pause_s in pieces:
        if piece := pacer.add("t", text, now_s):
            out.append((now_s, piece))
        then_s = now_s + pause_s
        while (due_s := pacer.due_s()) is not None and due_s < then_s:
            now_s = max(now_s, due_s)
            out += [(now_s, piece) for _, piece in pacer.take_due(now_s)]
        now_s = then_s
    now_s += pacer.wait_s("t", now_s)
    if rest := pacer.take_rest("t"):
        out.append((now_s, rest))
    return out


def arrivals(pieces: Sequence[tuple[str, float]]) -> list[float]:
    """When each character came."""
    now_s, arrivals_s = 0.0, list[float]()
    for text, pause_s in pieces:
        arrivals_s += [now_s] * len(text)
        now_s += pause_s
    return arrivals_s


def spaced(gap_ms: float, *words: str) -> list[tuple[str, float]]:
    """Tokens with the same pause behind each."""
    return [(word, gap_ms / 1_000) for word in words]


def in_ms(out: Sequence[Timed]) -> list[tuple[int, str]]:
    return [(round(now_s * 1_000), text) for now_s, text in out]


TABLE: dict[str, tuple[list[tuple[str, float]], list[tuple[int, str]]]] = {
    "one token": (spaced(0, "Hello"), [(0, "Hello")]),
    "the first token is not held": (spaced(100, "Hel", "lo"), [(0, "Hel"), (100, "lo")]),
    "the first token after a pause is not held": (
        [*spaced(10, "one", " two", " three", " four"), ("", 0.5), *spaced(100, " five")],
        [(0, "one"), (40, " two three"), (80, " four"), (540, " five")],
    ),
    "tokens of one moment are one piece": (
        [("Hel", 0), ("lo", 0), (" wor", 0), ("ld", 0.1), (" again", 0)],
        [(0, "Hello world"), (100, " again")],
    ),
    "30 tokens/s: what has come goes when the interval is over": (
        spaced(100 / 3, " a", " b", " c", " d", " e"),
        [(0, " a"), (40, " b"), (80, " c"), (120, " d"), (160, " e")],
    ),
    "100 tokens/s: the last word waits for its end": (
        spaced(10, "Un", "believ", "able", " sto", "ries", " of", " old", " sail", "ors", " we", " like"),
        [(0, "Un"), (40, "believable"), (80, " stories of old"), (120, " sailors we like")],
    ),
    "a fast model that falls silent in a word": (
        [*spaced(10, "a", " b", " c", " d"), *spaced(200, " wor", "d", " x")],
        [(0, "a"), (40, " b c d"), (80, " wor"), (240, "d"), (440, " x")],
    ),
    "spaces behind words": (
        spaced(10, "one ", "two ", "three ", "four ", "five ", "six "),
        [(0, "one "), (40, "two three four five "), (80, "six ")],
    ),
    "spaces without end, as of a model that has lost itself": (
        spaced(11, "a ", "b ", *"\n" * 9),
        [(0, "a "), (40, "b \n\n"), (80, "\n\n\n\n"), (120, "\n\n\n")],
    ),
    "a script without spaces": (spaced(10, "今", "天", "天", "气"), [(0, "今"), (40, "天天气")]),
}


@pytest.mark.feature("F19")
@pytest.mark.parametrize("case", TABLE)
def test_what_is_released_when(case: str) -> None:
    pieces, expected = TABLE[case]
    assert in_ms(released(pieces)) == expected


@given(texts)
def test_no_text_is_lost_and_none_added(pieces: list[tuple[str, float]]) -> None:
    assert "".join(text for _, text in released(pieces)) == "".join(text for text, _ in pieces)


@pytest.mark.feature("F19")
@given(texts)
def test_pieces_are_an_interval_apart(pieces: list[tuple[str, float]]) -> None:
    for (earlier_s, _), (later_s, _) in pairwise(released(pieces)):
        assert later_s - earlier_s >= INTERVAL_S - ROUNDING_S


@pytest.mark.feature("F19")
@given(fast_texts)
def test_the_pieces_of_a_fast_model_are_whole_words(pieces: list[tuple[str, float]]) -> None:
    """A word is cut only where it takes longer than it may wait."""
    out, arrivals_s = released(FAST + pieces), arrivals(FAST + pieces)
    text, cut = "".join(piece for _, piece in out), 0
    for at_s, piece in out[:-1]:
        cut += len(piece)
        if at_s > arrivals_s[len(FAST)] and not re.search(r"[\s界]$", piece) and not text[cut].isspace():
            word = re.search(r"[^\s界]*$", text[:cut])
            assert word is not None
            assert at_s - arrivals_s[word.start()] >= WORD_S - ROUNDING_S, (piece, text[cut:])


@given(texts)
def test_no_text_is_old(pieces: list[tuple[str, float]]) -> None:
    """Spaces do not count: one stays with the word behind it."""
    arrivals_s, taken = arrivals(pieces), 0
    for at_s, text in released(pieces):
        if text.strip():
            oldest_s = arrivals_s[taken + len(text) - len(text.lstrip())]
            assert at_s - oldest_s <= INTERVAL_S + WORD_S + TICK_S + ROUNDING_S
        taken += len(text)


@given(texts)
def test_the_first_text_is_not_held(pieces: list[tuple[str, float]]) -> None:
    assert [at_s for at_s, _ in released(pieces)[:1]] == pytest.approx(arrivals(pieces)[:1])


@pytest.mark.feature("F19")
def test_five_hundred_characters_at_once_are_a_few_pieces() -> None:
    words = [f"word{number} " for number in range(80)]
    out = released([(word, 0.0) for word in words])
    assert len("".join(words)) > 500
    assert len(out) <= 5


def test_without_an_interval_every_token_is_released_at_once() -> None:
    out = released([("a", 0.0), ("b c", 0.0), ("", 0.0), ("d", 0.0)], 0)
    assert [text for _, text in out] == ["a", "b c", "d"]


def test_a_word_that_never_ends_is_cut() -> None:
    assert TextPacer(INTERVAL_S).add("t", "x" * (WORD_CHARS_MAX + 1), 0.0) == "x" * (WORD_CHARS_MAX + 1)
    assert TextPacer(INTERVAL_S).add("t", "x" * WORD_CHARS_MAX, 0.0) == ""


def test_a_script_without_spaces_is_released_without_a_space() -> None:
    assert TextPacer(INTERVAL_S).add("t", "今天天气", 0.0) == "今天天气"


def test_a_large_text_does_not_wait_for_its_interval() -> None:
    pacer = TextPacer(INTERVAL_S)
    assert pacer.add("t", "a ", 0.0) == "a "
    assert pacer.add("t", "b " * BUFFERED_CHARS_MAX, 0.0) == "b " * BUFFERED_CHARS_MAX


@given(st.floats(0, 1), st.floats(0, INTERVAL_S - ARRIVAL_S))
def test_texts_that_began_at_different_times_are_due_at_ticks(begin_s: float, later_s: float) -> None:
    """A late timer does not change that, and does not make the interval longer."""
    pacer = TextPacer(INTERVAL_S)
    assert pacer.add("t", "one ", begin_s) == "one "
    assert pacer.add("t", "two ", begin_s + later_s) == ""
    due_s = pacer.due_s()
    assert due_s is not None
    assert due_s / TICK_S == pytest.approx(round(due_s / TICK_S))
    assert INTERVAL_S - ROUNDING_S <= due_s - begin_s <= INTERVAL_S + TICK_S + ROUNDING_S
    assert list(pacer.take_due(due_s + 0.002)) == [("t", "two ")]
    assert pacer.add("t", "three ", due_s + 0.003) == ""
    assert pacer.due_s() == pytest.approx(due_s + INTERVAL_S)


def test_pieces_behind_a_blocked_loop_are_not_sent_one_after_the_other() -> None:
    pacer = TextPacer(INTERVAL_S)
    assert pacer.add("t", "one ", 0.0) == "one "
    assert pacer.add("t", "two ", 0.01) == ""
    assert list(pacer.take_due(1.0)) == [("t", "two ")]
    assert pacer.add("t", "three ", 1.001) == ""
    assert pacer.due_s() == pytest.approx(1.0 - TICK_S + INTERVAL_S)


def test_each_part_has_its_own_interval() -> None:
    pacer = TextPacer(INTERVAL_S)
    assert pacer.add("t", "one ", 0.0) == "one "
    assert pacer.add("r", "two ", 0.0) == "two "
    assert pacer.add("t", "three ", 0.01) == ""
    assert pacer.due_s() == INTERVAL_S
    assert pacer.take_all() == [("t", "three ")]
    assert pacer.due_s() is None
