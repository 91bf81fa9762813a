"""A character that a model split over two deltas is one, in each kind of part."""

from collections.abc import Callable

import pytest

from rejoin_protocol.events.chunks import (
    Chunk,
    ReasoningDelta,
    ReasoningEnd,
    TextDelta,
    TextEnd,
    ToolInputAvailable,
    ToolInputDelta,
    ToolInputError,
)
from rejoin_runner.output.whole_characters import WholeCharacters

CALLED = ToolInputAvailable("x", "add", {})


def joined(*emitted: Chunk) -> list[Chunk]:
    characters = WholeCharacters()
    return [one for chunk in emitted for one in characters.join(chunk)]


@pytest.mark.parametrize(
    ("delta", "end"),
    [
        (TextDelta, TextEnd("x")),
        (ReasoningDelta, ReasoningEnd("x")),
        (ToolInputDelta, CALLED),
        (ToolInputDelta, ToolInputError("x", "add", "", "no")),
    ],
)
def test_halves_are_joined_and_a_half_at_the_end_is_replaced(
    delta: Callable[[str, str], Chunk], end: Chunk
) -> None:
    said = [delta("x", "a\ud83d"), delta("x", "\ude00"), delta("x", "\ud83d"), end]
    assert joined(*said) == [delta("x", "a"), delta("x", "😀"), delta("x", "\ufffd"), end]


def test_parts_of_one_id_do_not_mix() -> None:
    text, thought = TextDelta("x", "a\ud83d"), ReasoningDelta("x", "\ude00")
    assert joined(text, thought, ToolInputDelta("x", "\ude00"), TextEnd("x")) == [
        TextDelta("x", "a"),
        ReasoningDelta("x", "\ufffd"),
        ToolInputDelta("x", "\ufffd"),
        TextDelta("x", "\ufffd"),
        TextEnd("x"),
    ]


def test_a_delta_of_a_half_alone_keeps_its_metadata() -> None:
    signed = TextDelta("x", "\ud83d", {"p": {}})
    assert joined(signed) == [TextDelta("x", "", {"p": {}})]
    assert joined(TextDelta("x", "\ud83d")) == []


def test_what_has_no_halves_stays_the_same_object() -> None:
    for chunk in (TextDelta("x", "a😀"), TextDelta("x", ""), TextEnd("x"), CALLED):
        [one] = joined(chunk)
        assert one is chunk
