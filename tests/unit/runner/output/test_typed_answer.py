"""JSON text that a model writes becomes values that grow, in bounded bytes."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart
from rejoin_protocol.limits import TYPED_ANSWER_BYTES_MAX
from rejoin_runner.models.model import ModelChunk
from rejoin_runner.output.journal import EventTooLarge
from rejoin_runner.output.typed_answer import ALLOWANCE_BYTES, GROWTH, OutputText, UnfitAnswer, read_output


def said(*deltas: str, id: str = "t") -> list[ModelChunk]:
    return [TextStart(id), *(TextDelta(id, delta) for delta in deltas), TextEnd(id)]


def read(chunks: list[ModelChunk], output: OutputText) -> tuple[list[Any], list[Any]]:
    """What is passed on, and the values that are shown at one second after the other."""
    passed: list[Any] = []
    values: list[Any] = []
    for second, chunk in enumerate(chunks):
        passed += list(output.add(chunk))
        if (value := output.next_value(second)) is not UNSET:
            values.append(value)
    return passed, values


def test_text_before_a_tool_call_is_passed_on_as_it_came() -> None:
    plain = said("I ", "look it up.")
    assert read(plain, OutputText(0)) == (plain, [])


@pytest.mark.parametrize("deltas", [("`code`",), ("``` text",), (" ",), ("``",), ("[1]",), ("x{}",)])
def test_text_that_only_looks_like_the_beginning_is_passed_on(deltas: tuple[str, ...]) -> None:
    plain = said(*deltas)
    assert read(plain, OutputText(0)) == (plain, [])


@pytest.mark.parametrize(
    "deltas", [("```", "json", "\n{", '"a"', ":1}", "\n``", "`\n"), ("\n ", '{"a":1}', " ")]
)
def test_a_fence_in_pieces_is_no_part_of_the_object(deltas: tuple[str, ...]) -> None:
    output = OutputText(0)
    assert read(said(*deltas), output)[0] == []
    assert output.whole_value() == {"a": 1}


def test_a_later_object_of_the_response_counts() -> None:
    output = OutputText(0)
    read([*said('{"a":1}', id="1"), *said('{"b":2}', id="2")], output)
    assert output.whole_value() == {"b": 2}


def test_large_integers_stay_exact_while_they_grow() -> None:
    output = OutputText(0)
    _, shown = read(said('{"id":9007199254740993,', '"x":1}'), output)
    assert {value["id"] for value in shown} == {9007199254740993}


def test_half_a_character_is_not_shown() -> None:
    _, shown = read(said('{"a":"x', "\\ud83d", "\\ud", 'e00"}'), OutputText(0))
    assert shown == [{"a": "x"}, {"a": "x😀"}]


def test_values_are_shown_at_intervals() -> None:
    output = OutputText(10)
    list(output.add(TextStart("t")))
    list(output.add(TextDelta("t", '{"a":"')))
    shown = []
    for at in range(25):
        list(output.add(TextDelta("t", "x")))
        shown.append(output.next_value(at) is not UNSET)
    assert [at for at, is_shown in enumerate(shown) if is_shown] == [0, 10, 20]


def test_the_bytes_of_a_growing_value_are_bounded() -> None:
    """Shown at every delta, it would be the square of its size."""
    output, bytes_shown = OutputText(0), 0
    pieces = ['{"a":"', *["x" * 20] * 10_000, '"}']
    list(output.add(TextStart("t")))
    for number, piece in enumerate(pieces):
        list(output.add(TextDelta("t", piece)))
        value = output.next_value(number)
        bytes_shown += 0 if value is UNSET else len(msgspec.json.encode(value))
    size = sum(map(len, pieces))
    assert size < bytes_shown < ALLOWANCE_BYTES + (GROWTH + 1) * size


def test_an_object_that_is_too_large_is_refused() -> None:
    output = OutputText(0)
    list(output.add(TextStart("t")))
    list(output.add(TextDelta("t", '{"a":"')))
    with pytest.raises(EventTooLarge, match="the output is too large"):
        list(output.add(TextDelta("t", "é" * (TYPED_ANSWER_BYTES_MAX // 2))))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is no JSON object"),
        ('{"a":', "the contents are not complete JSON"),
        ('{"a":1} and more', "the contents are not JSON"),
    ],
)
def test_what_is_no_json_is_said(text: str, why: str) -> None:
    output = OutputText(0)
    read(said(text), output)
    with pytest.raises(UnfitAnswer, match=why):
        output.whole_value()
    with pytest.raises(UnfitAnswer):
        read_output(text)


def test_a_complete_text_is_read_at_once() -> None:
    assert read_output('```json\n{"a": 1}\n```') == {"a": 1}
