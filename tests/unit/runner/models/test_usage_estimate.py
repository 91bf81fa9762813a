"""The usage of an answer whose provider reports none, or a part of it."""

import pytest

from rejoin_protocol.events.chunks import ReasoningDelta, TextDelta, ToolInputDelta, ToolInputStart
from rejoin_runner.models.model import ModelChunk, ModelRequest, ToolSpec, Usage
from rejoin_runner.models.usage_estimate import UsageEstimate

ASKED = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "one two three four"}]}
NOTHING = {"id": "a", "role": "assistant", "parts": []}
ADD = ToolSpec("add", "Adds two numbers.", {"type": "object", "properties": {}})
REQUEST = ModelRequest("Be kind.", [ASKED], NOTHING, [], 0)
ANSWER: list[ModelChunk] = [
    ReasoningDelta("r", "well"),
    TextDelta("t", "five s"),
    TextDelta("t", "ix"),
    ToolInputStart("c", "add"),
    ToolInputDelta("c", "{}"),
]


def estimate(request: ModelRequest = REQUEST, answer: list[ModelChunk] = ANSWER) -> UsageEstimate:
    found = UsageEstimate(request)
    for chunk in answer:
        found.add(chunk)
    return found


def test_nothing_reported_is_estimated_by_what_was_asked_and_said() -> None:
    """Instructions and messages; text, reasoning and calls."""
    assert estimate().so_far() == Usage(7, 5, estimated=True)


def test_tools_are_a_part_of_the_input() -> None:
    with_tool = ModelRequest("Be kind.", [ASKED], NOTHING, [ADD], 0)
    assert estimate(with_tool).so_far().input_tokens > estimate().so_far().input_tokens + 5


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        (Usage(10, 20, 4, 6), Usage(10, 20, 4, 6)),
        (Usage(10, 0, 4), Usage(10, 5, 4, estimated=True)),
        (Usage(0, 20, 0, 6), Usage(7, 20, 0, 6, estimated=True)),
    ],
)
def test_a_count_that_is_reported_counts(reported: Usage, usage: Usage) -> None:
    assert estimate().complete(reported) == usage


def test_an_empty_answer_has_no_output() -> None:
    assert estimate(answer=[]).complete(Usage(10, 0)) == Usage(10, 0)


def test_a_sum_with_an_estimate_is_an_estimate() -> None:
    total = Usage(1, 2) + Usage(10, 20, 4, 6, estimated=True)
    assert total == Usage(11, 22, 4, 6, estimated=True)
    assert Usage.parse(total.to_metadata()) == total
    assert "estimated" not in Usage(1, 2).to_metadata()
