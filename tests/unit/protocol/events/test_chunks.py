"""Chunks: the codec accepts and writes exactly what the AI SDK's schema accepts."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import (
    Chunk,
    Data,
    Error,
    TextDelta,
    ToolOutputAvailable,
    decode,
    encode,
    encode_mended,
)
from tests.support.data.chunk_strategies import CHUNK_TYPES, OBJECTS, chunks, vectors

WIRE = vectors("fold.json")["wire"]
COMPLETE = [case for case in WIRE if case["name"].endswith(": complete")]


def named(case: dict[str, Any]) -> str:
    return str(case["name"])


@pytest.mark.parametrize("case", WIRE, ids=named)
def test_a_chunk_is_read_if_and_only_if_the_client_takes_it(case: dict[str, Any]) -> None:
    if case["isAccepted"]:
        decode(case["raw"])
    else:
        with pytest.raises(Invalid, match="not a UI message chunk: "):
            decode(case["raw"])


@pytest.mark.parametrize("case", COMPLETE, ids=named)
def test_a_complete_chunk_is_written_as_it_was_read(case: dict[str, Any]) -> None:
    assert json.loads(encode(decode(case["raw"]))) == json.loads(case["raw"])


def test_the_cases_know_every_chunk_type() -> None:
    assert {type(decode(case["raw"])) for case in COMPLETE} == set(CHUNK_TYPES)


@given(chunks)
def test_what_is_written_is_read_as_the_same_chunk(chunk: Any) -> None:
    assert decode(encode(chunk)) == chunk


@given(chunks)
def test_no_typed_field_is_ever_written_as_null(chunk: Any) -> None:
    free = {"input", "output", "data", "messageMetadata", "approvalDescriptor", "inputSchemaInput"}
    assert (
        None
        not in {name: value for name, value in json.loads(encode(chunk)).items() if name not in free}.values()
    )


@given(chunks, OBJECTS)
def test_unknown_fields_are_dropped(chunk: Any, extra: dict[str, Any]) -> None:
    known = json.loads(encode(chunk))
    later = {f"later {name}": value for name, value in extra.items()}
    assert decode(json.dumps(known | later)) == chunk


@given(chunks, st.data())
def test_null_for_a_typed_field_is_refused(chunk: Any, data: st.DataObject) -> None:
    free = ("input", "output", "data", "message_metadata", "approval_descriptor", "input_schema_input")
    typed = [field.encode_name for field in msgspec.structs.fields(chunk) if field.name not in free]
    known = json.loads(encode(chunk))
    field = data.draw(st.sampled_from([*typed, "type"]))
    with pytest.raises(Invalid):
        decode(json.dumps(known | {field: None}))


def test_required_values_of_any_kind_are_written_even_if_there_is_none() -> None:
    assert encode(ToolOutputAvailable("c", None)) == (
        b'{"type":"tool-output-available","toolCallId":"c","output":null}'
    )
    assert encode(Data("data-x", None)) == b'{"type":"data-x","data":null}'


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        ('{"type":"data-x","data":1,"id":null}', r"Expected `str`, got `null` - at `\$.id`"),
        ('{"type":"data-x","data":1,"transient":1}', r"Expected `bool`, got `int` - at `\$.transient`"),
        ('{"type":"data-x"}', "Object missing required field `data`"),
        ('{"type":"text-delta","id":"t","delta":null}', r"Expected `str`, got `null` - at `\$.delta`"),
        ('{"type":"ping"}', r"Invalid value 'ping' - at `\$.type`"),
        ('{"type":', "truncated"),
        ('{"type":"data-x","data":' + "[" * 100_000, "recursion"),
        (b'{"type":"error","errorText":"\xff"}', "utf-8"),
        ("\ud800", "surrogates"),
    ],
)
def test_a_fault_is_reported_for_the_field_that_has_it(raw: bytes | str, fault: str) -> None:
    with pytest.raises(Invalid, match=fault):
        decode(raw)


@pytest.mark.parametrize(
    "output", [{"__proto__": 1}, [{"a": {"__proto__": {}}}], {"constructor": {"prototype": None}}]
)
def test_a_key_that_kills_every_client_is_not_written(output: Any) -> None:
    with pytest.raises(Invalid, match="prototype"):
        encode(ToolOutputAvailable("c", output))


@pytest.mark.parametrize("text", ['{"__proto__":1}', "prototype", "\x00__proto__"])
def test_text_about_prototypes_is_only_text(text: str) -> None:
    assert decode(encode(TextDelta("t", text))) == TextDelta("t", text)
    assert decode(encode(Data("data-x", {"prototype": text}))) == Data("data-x", {"prototype": text})


def test_half_a_character_is_not_written() -> None:
    with pytest.raises(Invalid, match="surrogates not allowed"):
        encode(Error("\ud83d"))


@pytest.mark.parametrize(
    ("chunk", "mended"),
    [
        (Error("a\ud83d"), Error("a\ufffd")),
        (TextDelta("t", "\ude00", {"p": {"\ud83d": 1}}), TextDelta("t", "\ufffd", {"p": {"\ufffd": 1}})),
        (
            ToolOutputAvailable("c", {"a\ud83d": ["\ud83d\ude00", None]}),
            ToolOutputAvailable("c", {"a\ufffd": ["😀", None]}),
        ),
        (Data("data-x", ["\ud83d"], "\ud83d"), Data("data-x", ["\ufffd"], "\ufffd")),
    ],
)
def test_half_a_character_can_be_replaced_wherever_it_is(chunk: Chunk, mended: Chunk) -> None:
    """The chunk that is returned is the one in the bytes; a chunk without halves is returned as it is."""
    assert encode_mended(chunk) == (mended, encode(mended))
    assert encode_mended(mended)[0] is mended


def test_what_is_mended_is_checked_like_anything_else() -> None:
    with pytest.raises(Invalid, match="prototype"):
        encode_mended(ToolOutputAvailable("c", {"__proto__": "\ud83d"}))


def test_a_value_that_json_does_not_have_is_a_programming_error() -> None:
    with pytest.raises(TypeError):
        encode(Data("data-x", object()))
