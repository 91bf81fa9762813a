"""What is kept of an interrupted answer is what its user had seen."""

from typing import Any

import pytest

from rejoin_runner.next_action.seen_part import cut_behind

STEP = {"type": "step-start"}
FIRST = {"type": "text", "text": "I look it up.", "state": "done"}
CALL = {"type": "tool-find", "toolCallId": "c1", "state": "output-available", "input": {}, "output": 1}
DATA = {"type": "data-chart", "id": "d1", "data": {}}
SECOND = {"type": "text", "text": "It is one of them.", "state": "done"}
PARTS = [STEP, FIRST, CALL, STEP, DATA, SECOND]


@pytest.mark.feature("F75")
@pytest.mark.parametrize(
    ("seen", "kept"),
    [
        (
            {"type": "text", "text": "It is on", "state": "streaming"},
            [*PARTS[:5], SECOND | {"text": "It is on"}],
        ),
        ({"type": "text", "text": "It is one of them."}, PARTS),
        ({"type": "text", "text": "I look"}, [STEP, FIRST | {"text": "I look"}]),
        ({"type": "text", "text": "I"}, [*PARTS[:5], SECOND | {"text": "I"}]),
        ({"type": "tool-find", "toolCallId": "c1", "state": "input-streaming"}, PARTS[:3]),
        ({"type": "data-chart", "id": "d1"}, PARTS[:5]),
        ({"type": "text", "text": "Something else"}, PARTS),
        ({"type": "text", "text": ""}, PARTS),
        ({"type": "text"}, PARTS),
        ({"type": "tool-find", "toolCallId": "c2"}, PARTS),
        ({}, PARTS),
    ],
)
def test_cut(seen: dict[str, Any], kept: list[dict[str, Any]]) -> None:
    message: Any = {"id": "m", "role": "assistant", "metadata": {"usage": {}}, "parts": PARTS}
    assert cut_behind(message, seen) == message | {"parts": kept}


def test_what_the_user_said_behind_the_cut_stays() -> None:
    said = {"type": "steering-message", "id": "s", "parts": [{"type": "text", "text": "faster"}]}
    message: Any = {"id": "m", "role": "assistant", "parts": [STEP, FIRST, said, STEP, SECOND]}
    assert cut_behind(message, {"type": "text", "text": "I look"})["parts"] == [
        STEP,
        FIRST | {"text": "I look"},
        said,
    ]
