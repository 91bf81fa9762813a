"""A user's message as an event and a part of an answer."""

from collections.abc import Mapping

import pytest

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import SteeringFile, SteeringMessage, SteeringText
from rejoin_protocol.events.fold import MessageDict, fold
from rejoin_protocol.events.steering import steering_fault, steering_ids, to_chunk
from rejoin_protocol.limits import STEERING_BYTES_MAX

FILE = {"type": "file", "url": "/api/files/x", "mediaType": "image/png", "filename": "x.png"}


def message(*parts: Mapping[str, object]) -> MessageDict:
    return {"id": "m", "role": "user", "parts": list(parts)}


def text(value: str) -> dict[str, object]:
    return {"type": "text", "text": value}


def test_texts_and_files_become_one_event() -> None:
    made = to_chunk(message(text("faster"), FILE))
    file = SteeringFile("image/png", "/api/files/x", filename="x.png")
    assert made == SteeringMessage("m", [SteeringText("faster"), file])


def test_metadata_of_the_message_is_kept_beside_that_of_its_first_part() -> None:
    said: MessageDict = {**message(text("faster"), FILE), "metadata": {"page": 1}}
    assert to_chunk(said).parts[0] == SteeringText("faster", {"rejoin": {"metadata": {"page": 1}}})
    assert to_chunk(said).parts[1] == SteeringFile("image/png", "/api/files/x", filename="x.png")
    said["parts"][0]["providerMetadata"] = {"acme": {"a": 1}, "rejoin": {"b": 2}}
    [first, _] = to_chunk(said).parts
    assert first.provider_metadata == {"acme": {"a": 1}, "rejoin": {"b": 2, "metadata": {"page": 1}}}


def test_metadata_counts_and_is_checked_like_the_rest_of_the_event() -> None:
    long: MessageDict = {**message(text("x")), "metadata": "x" * STEERING_BYTES_MAX}
    fault = steering_fault(long)
    assert fault is not None
    assert str(STEERING_BYTES_MAX) in fault[0]
    with pytest.raises(Invalid, match="prototype"):
        steering_fault({**message(text("x")), "metadata": {"__proto__": 1}})


def test_the_answer_names_the_messages_that_it_has() -> None:
    answer = fold([chunks.Start("a"), to_chunk(message(text("one"))), chunks.StartStep()])
    assert steering_ids(answer) == ["m"]
    assert steering_ids(None) == steering_ids({"id": "a"}) == []


def test_what_has_no_place_in_the_event_is_refused() -> None:
    assert steering_fault(message(text("faster"), FILE)) is None
    data = {"type": "data-cart", "data": 1}
    assert steering_fault(message(text("x"), data)) == (
        "a message that steers has texts and files, no data-cart",
        "/parts/1",
    )


@pytest.mark.parametrize("character", ["x", "\0"])
def test_an_event_is_not_larger_than_it_may_be(character: str) -> None:
    """As JSON a character may take six bytes."""
    each = len(chunks.encode(to_chunk(message(text(character))))) - len(
        chunks.encode(to_chunk(message(text(""))))
    )
    most = (STEERING_BYTES_MAX - len(chunks.encode(to_chunk(message(text("")))))) // each
    assert steering_fault(message(text(character * most))) is None
    fault = steering_fault(message(text(character * (most + 1))))
    assert fault is not None
    assert str(STEERING_BYTES_MAX) in fault[0]
