"""An answer as a text that only grows: what it says, and where it has to break off."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from rejoin_gateway.streaming.answer_text import AnswerText, RunFailed, open_json
from rejoin_protocol.errors import Gone
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.typed_output import STATE_KEY, output_chunk
from rejoin_runner.output.typed_answer import OutputText

TYPED = chunks.Start("m", {STATE_KEY: "partial"})
PLAIN = chunks.Start("m")
DONE = chunks.MessageMetadata({STATE_KEY: "done"})
STEP, RESET = chunks.StartStep(), chunks.ResetStep()
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda text: "proto" not in text
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def delta(text: str) -> Chunk:
    return chunks.TextDelta("t", text)


def read(*events: Chunk) -> str:
    answer = AnswerText()
    text = "".join([answer.feed(event) for event in events])
    answer.end()
    return text


@given(st.dictionaries(TEXTS, JSON, max_size=4), st.integers(1, 20), st.booleans())
def test_a_typed_answer_in_any_pieces_becomes_its_json(value: Any, size: int, is_ascii: bool) -> None:
    """The values that a runner shows of it continue each other as texts."""
    written = json.dumps(value, ensure_ascii=is_ascii)
    output, answer, text = OutputText(0), AnswerText(), ""
    list(output.add(chunks.TextStart("t")))
    answer.feed(TYPED)
    for number, at in enumerate(range(0, len(written), size)):
        list(output.add(chunks.TextDelta("t", written[at : at + size])))
        if (shown := output.next_value(number)) is not UNSET:
            text += answer.feed(output_chunk(shown))
    text += answer.feed(output_chunk(output.whole_value())) + answer.feed(DONE)
    answer.end()
    assert text == msgspec.json.encode(value).decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({}, "{"),
        ({"a": []}, '{"a":['),
        ({"a": "x"}, '{"a":"x'),
        ({"a": 'x"'}, '{"a":"x\\"'),
        ({"a": 12}, '{"a":'),
        ({"a": [1, 2]}, '{"a":[1,'),
        ({"a": {"b": None}}, '{"a":{"b":'),
    ],
)
def test_what_can_still_change_is_left_out(value: Any, text: str) -> None:
    assert open_json(value) == text


def test_a_plain_answer_is_its_texts() -> None:
    reasoning: list[Chunk] = [
        chunks.ReasoningStart("r"),
        chunks.ReasoningDelta("r", "hm"),
        chunks.ReasoningEnd("r"),
    ]
    assert read(PLAIN, STEP, *reasoning, delta("Hel"), delta("lo"), STEP, delta("!")) == "Hello!"


def test_a_step_that_is_repeated_with_the_same_text_goes_on() -> None:
    assert read(PLAIN, STEP, delta("one "), delta("two"), RESET, delta("one t"), delta("wo three")) == (
        "one two three"
    )
    assert read(PLAIN, STEP, delta("a"), STEP, delta("bc"), RESET, delta("b"), RESET, delta("bcd")) == "abcd"


@pytest.mark.parametrize(
    "events",
    [
        (STEP, delta("one"), RESET, delta("two")),
        (STEP, delta("one"), RESET, delta("on"), STEP, delta("e")),
        (STEP, delta("one"), RESET),
    ],
)
def test_a_step_that_is_repeated_with_another_text_breaks_off(events: tuple[Chunk, ...]) -> None:
    with pytest.raises(Gone, match="the answer began again"):
        read(PLAIN, *events)


@pytest.mark.parametrize(
    "events",
    [
        (output_chunk({"a": "x"}), output_chunk({"b": "x"})),
        (output_chunk({"a": "x"}), output_chunk({"b": "x"}), DONE),
        (output_chunk({"a": "x"}), chunks.Abort()),
    ],
)
def test_a_typed_answer_that_is_not_continued_breaks_off(events: tuple[Chunk, ...]) -> None:
    with pytest.raises(Gone, match="the answer began again"):
        read(TYPED, *events)


def test_a_typed_answer_without_any_output_is_empty() -> None:
    """It waits for a person, for example."""
    assert read(TYPED, STEP, delta("I ask first."), chunks.Finish("tool-calls")) == ""


def test_a_failure_is_raised_with_its_words() -> None:
    with pytest.raises(RunFailed, match="no"):
        read(PLAIN, delta("x"), chunks.Error("no"))
