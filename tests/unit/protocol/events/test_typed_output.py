"""The typed answer in a message, and what models and text clients are shown of it."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import fold
from rejoin_protocol.events.typed_output import (
    STATE_KEY,
    OutputAsText,
    OutputFault,
    OutputReader,
    fault_chunk,
    find_faults,
    find_output,
    output_chunk,
    output_state,
    show_output,
)
from rejoin_protocol.events.unfold import unfold

START = chunks.Start("m", {STATE_KEY: "partial"})
STEP = chunks.StartStep()
DONE = chunks.MessageMetadata({STATE_KEY: "done"})
INVALID = chunks.MessageMetadata({STATE_KEY: "invalid"})
FAULT = fault_chunk(OutputFault("no cents", '{"a":1}'))


def texts(message: dict[str, Any]) -> list[str]:
    parts = show_output(message)["parts"]
    said = [part.get("text") or part.get("parts", [{}])[0].get("text") for part in parts]
    return [text for text in said if text]


def test_only_the_word_done_makes_it_whole() -> None:
    grown = fold([START, STEP, output_chunk({"a": 1}), output_chunk({"a": 12})])
    assert (output_state(grown), find_output(grown)) == ("partial", UNSET)
    whole = fold([START, STEP, output_chunk({"a": 12}), DONE])
    assert (output_state(whole), find_output(whole)) == ("done", {"a": 12})
    assert output_state({"id": "m", "role": "assistant", "parts": []}) == "partial"


def test_a_message_keeps_its_output_through_unfold() -> None:
    message = fold([START, STEP, output_chunk({"a": 1}), INVALID, FAULT, STEP, output_chunk({"a": 2}), DONE])
    again = fold(unfold(message))
    assert (again, find_output(again)) == (message, {"a": 2})
    assert find_faults(again) == [OutputFault("no cents", '{"a":1}')]


def test_a_model_is_shown_its_mistake_until_there_is_an_output() -> None:
    open_ = fold([START, STEP, output_chunk({"a": 1}), FAULT, INVALID])
    assert texts(open_) == [
        '{"a":1}',
        "[Your answer does not fit: no cents. Answer again, with the whole JSON object.]",
    ]
    whole = fold([START, STEP, output_chunk({"a": 1}), FAULT, INVALID, STEP, output_chunk({"a": 2}), DONE])
    assert texts(whole) == ['{"a":2}']


def test_half_an_output_is_not_shown_and_other_messages_stay_as_they_are() -> None:
    assert texts(fold([START, STEP, output_chunk({"a": 1})])) == []
    plain = fold([chunks.Start("m"), STEP, chunks.TextStart("t"), chunks.TextDelta("t", "hi")])
    assert show_output(plain) is plain


def test_the_output_of_a_message_stands_in_a_step_of_its_own() -> None:
    """Reasoning before it is then the end of an answer, and is not sent back alone."""
    message = fold(
        [START, STEP, chunks.ReasoningStart("r"), chunks.ReasoningEnd("r"), output_chunk({}), DONE]
    )
    kinds = [part["type"] for part in show_output(message)["parts"]]
    assert kinds == ["step-start", "reasoning", "step-start", "text"]


def test_a_fault_in_another_form_is_still_one() -> None:
    odd = chunks.Data("data-output-error", {"error": 7})
    assert find_faults(fold([START, STEP, odd])) == [OutputFault("it is not what the agent must return")]


@pytest.mark.parametrize(
    ("events", "value", "error"),
    [
        ([START, output_chunk({"a": 1}), DONE], {"a": 1}, None),
        ([START, output_chunk({"a": 1})], UNSET, None),
        ([output_chunk({"a": 1}), INVALID, output_chunk({"a": 2}), DONE], {"a": 2}, None),
        ([START, output_chunk({"a": 1}), chunks.Error("no")], UNSET, "no"),
        ([START, output_chunk({"a": 1}), DONE, chunks.ResetStep()], UNSET, None),
        ([START, output_chunk({"a": 1}), DONE, chunks.ResetStep(), output_chunk({"a": 2})], UNSET, None),
    ],
)
def test_the_reader_of_a_stream(events: list[Chunk], value: Any, error: str | None) -> None:
    reader = OutputReader()
    for event in events:
        reader.apply(event)
    assert (reader.whole_value, reader.error) == (value, error)


def test_text_clients_get_the_output_once_and_no_other_text() -> None:
    view = OutputAsText()
    said: list[Chunk] = [chunks.TextStart("t"), chunks.TextDelta("t", "hm"), chunks.TextEnd("t")]
    events: list[Chunk] = [
        START,
        *said,
        output_chunk({"a": 1}),
        DONE,
        chunks.ResetStep(),
        output_chunk({"a": 1}),
        DONE,
    ]
    seen = [shown for event in events for shown in view.feed(event)]
    deltas = [one.delta for one in seen if isinstance(one, chunks.TextDelta)]
    assert deltas == ['{"a":1}', '{"a":1}']  # the first one is void
    assert [view.feed(DONE)] == [[DONE]]


def test_a_plain_answer_passes_through_the_view_of_text_clients() -> None:
    view = OutputAsText()
    events: list[Chunk] = [
        chunks.Start("m"),
        chunks.TextStart("t"),
        chunks.TextDelta("t", "hi"),
        chunks.TextEnd("t"),
    ]
    assert [shown for event in events for shown in view.feed(event)] == events


def test_the_metadata_of_a_run_may_be_of_any_kind() -> None:
    assert output_state({"id": "m", "role": "assistant", "parts": [], "metadata": 7}) == "partial"
    assert msgspec.json.encode(FAULT) == (
        b'{"type":"data-output-error","data":{"error":"no cents","answer":"{\\"a\\":1}"}}'
    )
