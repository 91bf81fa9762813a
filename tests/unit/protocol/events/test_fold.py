"""`Fold` builds the AI SDK's message for every test vector, however the log is split."""

import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import partial_json
from rejoin_protocol.events.chunks import (
    Chunk,
    Error,
    Finish,
    MessageMetadata,
    Start,
    TextDelta,
    TextEnd,
    TextStart,
    ToolInputDelta,
    ToolInputStart,
    ToolOutputAvailable,
    decode,
)
from rejoin_protocol.events.fold import Fold, MessageDict, fold
from tests.support.data import chunk_strategies

FOLDS = chunk_strategies.vectors("fold.json")["folds"]


def named(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def begun(vector: dict[str, Any]) -> Fold:
    """A fold as the client begins: from the stored message, or from an empty one under an id of its own."""
    return Fold(vector.get("message", {"id": "client", "role": "assistant", "parts": []}))


def run(vector: dict[str, Any], *, reads_between: bool = False) -> tuple[Fold, str | None]:
    """Fold the chunks up to the first error. Returns the message and the error."""
    state = begun(vector)
    for raw in vector["chunks"]:
        try:
            state.apply(decode(json.dumps(raw)))
        except Invalid as fault:
            return state, fault.detail
        if state.error_text is not None:
            return state, state.error_text
        if reads_between:
            assert state.message is not state.message
    return state, None


@pytest.mark.parametrize("reads_between", [False, True], ids=["read once", "read after every chunk"])
@pytest.mark.parametrize("vector", FOLDS, ids=named)
def test_chunks_fold_into_the_message_that_the_client_has(
    vector: dict[str, Any], *, reads_between: bool
) -> None:
    expect = vector["expect"]
    state, error = run(vector, reads_between=reads_between)
    assert state.message == expect["message"]
    assert state.finish_reason == expect.get("finishReason")
    assert (error is not None) is ("error" in expect)


@pytest.mark.parametrize("vector", [v for v in FOLDS if "error" in v["expect"]], ids=named)
def test_where_the_client_throws_the_fold_says_why(vector: dict[str, Any]) -> None:
    name, message = vector["expect"]["error"]["name"], vector["expect"]["error"]["message"]
    error = run(vector)[1]
    assert error is not None
    match name:
        case "Error":
            assert error == message
        case "AI_TypeValidationError":
            assert error.startswith("not a UI message chunk: ")
        case _:
            named_id = message.split('"')[1]
            assert repr(named_id) in error


def folded(chunks: list[Chunk]) -> Fold:
    state = Fold()
    for chunk in chunks:
        try:
            state.apply(chunk)
        except Invalid:
            continue
    return state


@given(st.lists(chunk_strategies.chunks, max_size=12))
def test_reading_between_the_chunks_changes_nothing(chunks: list[Chunk]) -> None:
    state = Fold()
    for number, chunk in enumerate(chunks, 1):
        before = copy.deepcopy(state.message)
        try:
            state.apply(chunk)
        except Invalid:
            assert state.message == before
        assert state.message == folded(chunks[:number]).message


@settings(max_examples=60)
@given(chunk_strategies.sensible_runs(), st.data())
def test_a_stored_message_goes_on_where_nothing_but_inputs_was_open(
    chunks: list[Chunk], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(chunks)))
    stored = fold(chunks[:cut])
    if not any(part.get("state") == "streaming" for part in stored["parts"]):
        assert fold(chunks[cut:], json.loads(json.dumps(stored))) == fold(chunks)


@given(chunk_strategies.sensible_runs())
def test_a_sensible_run_never_fails_and_its_message_can_be_stored(chunks: list[Chunk]) -> None:
    message = fold(chunks)
    assert msgspec.json.decode(msgspec.json.encode(message)) == message


def test_the_fold_leaves_alone_what_it_was_given() -> None:
    part = {"type": "tool-w", "toolCallId": "c", "state": "input-streaming", "rawInput": "["}
    stored: MessageDict = {"id": "a", "role": "assistant", "metadata": {"n": {"a": 1}}, "parts": [part]}
    before = copy.deepcopy(stored)
    chunks: list[Chunk] = [
        Start("b", {"n": {"b": 2}}),
        ToolInputDelta("c", "1]"),
        ToolOutputAvailable("c", {"x": []}),
    ]
    fold(chunks, stored)
    assert stored == before


def test_a_message_that_was_read_does_not_change_any_more() -> None:
    state = Fold()
    state.apply(TextStart("t"))
    state.apply(TextDelta("t", "a"))
    read = state.message
    state.apply(TextDelta("t", "b"))
    state.apply(TextEnd("t"))
    assert read["parts"] == [{"type": "text", "text": "a", "state": "streaming"}]
    assert state.message["parts"] == [{"type": "text", "text": "ab", "state": "done"}]


def test_after_an_error_the_log_goes_on_to_its_finish() -> None:
    state = Fold()
    for chunk in (TextStart("t"), TextDelta("t", "a"), Error("boom"), TextEnd("t"), Finish("error")):
        state.apply(chunk)
    assert (state.error_text, state.finish_reason) == ("boom", "error")
    assert state.message["parts"] == [{"type": "text", "text": "a", "state": "done"}]


def test_an_input_is_parsed_only_when_the_message_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    parse = partial_json.parse

    def noted(text: str) -> tuple[str, Any]:
        parsed.append(text)
        return parse(text)

    monkeypatch.setattr(partial_json, "parse", noted)
    state = Fold()
    state.apply(ToolInputStart("c", "w"))
    for piece in ("[", *["1,"] * 1000):
        state.apply(ToolInputDelta("c", piece))
    assert parsed == []
    assert len(state.message["parts"][0]["input"]) == 1000
    assert state.message == state.message
    assert len(parsed) == 1


def test_half_a_character_at_the_end_of_an_open_input_can_be_stored() -> None:
    message = fold([ToolInputStart("c", "w"), ToolInputDelta("c", r'["\ud83d\ude00 \\ud83d \ud83d')])
    assert message["parts"][0]["input"] == ["\N{GRINNING FACE} \\ud83d \N{REPLACEMENT CHARACTER}"]
    assert message["parts"][0]["rawInput"] == r'["\ud83d\ude00 \\ud83d \ud83d'
    assert msgspec.json.encode(message)


def test_metadata_that_is_no_object_cannot_be_merged() -> None:
    with pytest.raises(Invalid, match="not an object"):
        fold([MessageMetadata([1]), MessageMetadata({"a": 1})])


def test_chunks_do_not_fold_into_a_user_message() -> None:
    with pytest.raises(Invalid, match="user"):
        Fold({"id": "u1", "role": "user", "parts": []})
