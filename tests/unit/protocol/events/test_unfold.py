"""`unfold` is the inverse of `Fold`: its chunks fold to the same message."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events.chunks import (
    Chunk,
    ReasoningDelta,
    Start,
    StartStep,
    TextDelta,
    TextEnd,
    TextStart,
    ToolApprovalRequest,
    ToolApprovalResponse,
    ToolInputAvailable,
    ToolInputDelta,
    ToolOutputAvailable,
    decode,
    encode,
)
from rejoin_protocol.events.fold import MessageDict, Part, fold, is_tool
from rejoin_protocol.events.unfold import text_id, unfold
from tests.support.data import chunk_strategies

MESSAGES: dict[str, MessageDict] = {
    vector["name"]: vector["expect"]["message"] for vector in chunk_strategies.vectors("fold.json")["folds"]
}
OUTPUT_FIELDS = {"output", "errorText", "preliminary", "resultProviderMetadata"}
FIELDS_OF = {
    "output-available": {"output", "preliminary", "resultProviderMetadata"},
    "output-error": {"errorText", "resultProviderMetadata"},
}


def replayed(message: MessageDict) -> MessageDict:
    """The message after its way over the wire as a new log."""
    return fold(decode(encode(chunk)) for chunk in unfold(message))


def is_senseless(message: MessageDict) -> bool:
    """Whether a call went back, lost its raw input, or has its neighbour's id: no sensible run does that."""
    calls = [part for part in message["parts"] if is_tool(part)]
    return any(_went_back(call) for call in calls) or _has_neighbours_of_one_id(message["parts"])


def _went_back(call: Part) -> bool:
    left_over = OUTPUT_FIELDS - FIELDS_OF.get(call["state"], set())
    is_raw_lost = call["state"] == "input-streaming" and "input" in call and "rawInput" not in call
    return is_raw_lost or not left_over.isdisjoint(call)


def _has_neighbours_of_one_id(parts: Iterable[Part]) -> bool:
    seen: set[str] = set()
    approvals: set[str] = set()
    for part in parts:
        if part["type"] == "step-start":
            seen = set()
        elif is_tool(part):
            approval = part.get("approval", {}).get("id", "")
            if part["toolCallId"] in seen or approval in approvals:
                return True
            seen.add(part["toolCallId"])
            approvals |= {approval} - {""}
    return False


@pytest.mark.parametrize(
    "message",
    [pytest.param(message, id=name) for name, message in MESSAGES.items() if not is_senseless(message)],
)
def test_a_message_of_the_client_comes_back_from_its_chunks(message: MessageDict) -> None:
    assert replayed(message) == message


def test_hardly_a_message_of_the_client_is_out_of_reach() -> None:
    lost = [name for name, message in MESSAGES.items() if replayed(message) != message]
    assert not [name for name in lost if name.startswith("sensible")]
    assert len(lost) < len(MESSAGES) / 10


@given(chunk_strategies.sensible_runs())
def test_the_message_of_a_sensible_run_comes_back_from_its_chunks(chunks: list[Chunk]) -> None:
    message = fold(chunks)
    assert replayed(message) == message


@given(chunk_strategies.sensible_runs())
def test_the_chunks_are_the_fewest_that_make_the_message(chunks: list[Chunk]) -> None:
    message = fold(chunks)
    fewest = unfold(message)
    for left_out in range(1, len(fewest)):
        try:
            shorter = fold(fewest[:left_out] + fewest[left_out + 1 :])
        except Invalid:
            continue
        assert shorter != message


def test_an_approved_call_is_unfolded_in_the_order_of_its_life() -> None:
    approval = {"id": "p", "requestReason": "why", "approved": True, "reason": "ok"}
    call: Part = {
        "type": "dynamic-tool",
        "toolCallId": "c",
        "toolName": "w",
        "state": "output-available",
        "title": "T",
        "input": None,
        "output": 2,
        "approval": approval,
        "callProviderMetadata": {"a": {}},
        "resultProviderMetadata": {"b": {}},
    }
    text = {"type": "text", "text": "so", "state": "done"}
    parts = [{"type": "step-start"}, call, {"type": "step-start"}, text]
    assert unfold({"id": "a1", "role": "assistant", "metadata": {"n": 1}, "parts": parts}) == [
        Start("a1", {"n": 1}),
        StartStep(),
        ToolInputAvailable("c", "w", None, provider_metadata={"a": {}}, dynamic=True, title="T"),
        ToolApprovalRequest("p", "c", reason="why"),
        ToolApprovalResponse("p", True, "ok"),
        ToolOutputAvailable("c", 2, provider_metadata={"b": {}}),
        StartStep(),
        TextStart("text-3"),
        TextDelta("text-3", "so"),
        TextEnd("text-3"),
    ]


def test_open_parts_go_on_after_the_unfolded_chunks() -> None:
    call: Part = {"type": "tool-w", "toolCallId": "c", "state": "input-streaming"}
    call |= {"input": [1], "rawInput": "[1"}
    text = {"type": "text", "text": "a", "state": "streaming"}
    reasoning = {"type": "reasoning", "id": "r", "text": "", "state": "streaming"}
    message = {"id": "a1", "role": "assistant", "parts": [text, reasoning, call]}
    more: list[Chunk] = [TextDelta(text_id(0), "b"), ReasoningDelta("r", "c"), ToolInputDelta("c", ",2]")]
    gone_on = fold([*unfold(message), *more])["parts"]
    assert gone_on == [
        text | {"text": "ab"},
        reasoning | {"text": "c"},
        call | {"input": [1, 2], "rawInput": "[1,2]"},
    ]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "hologram"},
        {"type": "start"},
        {"type": "file", "url": "data:,"},
        {"type": "data-x"},
        {"type": "text", "text": "a", "citations": [{}]},
    ],
    ids=json.dumps,
)
def test_a_part_that_no_chunk_makes_is_refused(part: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="no chunk makes this part"):
        unfold({"id": "a1", "role": "assistant", "parts": [part]})
