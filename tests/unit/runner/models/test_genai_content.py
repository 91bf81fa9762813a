"""Conversations as OpenTelemetry's GenAI conventions write them, within their bound."""

import json

from rejoin_protocol.events.chunks import ReasoningDelta, TextDelta, ToolInputAvailable
from rejoin_runner.models.genai_content import (
    CONTENT_BYTES_MAX,
    OutputContent,
    clip_json,
    convention_reason,
    input_messages,
    system_instructions,
)

USER = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "How cold?"}]}
ANSWER = {
    "id": "a",
    "role": "assistant",
    "parts": [
        {"type": "step-start"},
        {
            "type": "tool-weather",
            "toolCallId": "c",
            "state": "output-available",
            "input": {"city": "Oslo"},
            "output": "-3",
        },
        {"type": "text", "text": "Three below."},
        {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,c2VjcmV0"},
    ],
}


def test_an_answer_with_results_is_several_messages() -> None:
    assert json.loads(input_messages([USER, ANSWER])) == [
        {"role": "user", "parts": [{"type": "text", "content": "How cold?"}]},
        {
            "role": "assistant",
            "parts": [
                {"type": "tool_call", "id": "c", "name": "weather", "arguments": {"city": "Oslo"}},
                {"type": "text", "content": "Three below."},
                {"type": "file", "mime_type": "image/png"},
            ],
        },
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c", "response": "-3"}]},
    ]


def test_of_a_long_conversation_the_newest_messages_are_kept() -> None:
    long = [{**USER, "parts": [{"type": "text", "text": f"{number} {'x' * 30_000}"}]} for number in range(9)]
    text = input_messages(long)
    assert len(text.encode()) <= CONTENT_BYTES_MAX
    assert [one["parts"][0]["content"][0] for one in json.loads(text)] == ["7", "8"]
    assert json.loads(input_messages([{**USER, "parts": [{"type": "text", "text": "x" * 10**6}]}])) == []


def test_instructions_are_shown_within_the_bound() -> None:
    assert json.loads(system_instructions("Be brief.")) == [{"type": "text", "content": "Be brief."}]
    assert len(system_instructions("x" * 10**6)) < 100


def test_an_answer_is_collected_up_to_the_bound() -> None:
    output = OutputContent()
    for chunk in (
        ReasoningDelta("r", "hm"),
        TextDelta("t", "It is "),
        TextDelta("t", "cold."),
        ToolInputAvailable("c", "weather", {"city": "Oslo"}),
        TextDelta("t", "x" * CONTENT_BYTES_MAX),
    ):
        output.add(chunk)
    assert json.loads(output.messages("tool-calls")) == [
        {
            "role": "assistant",
            "finish_reason": "tool_call",
            "parts": [
                {"type": "reasoning", "content": "hm"},
                {"type": "text", "content": "It is cold."},
                {"type": "tool_call", "id": "c", "name": "weather", "arguments": {"city": "Oslo"}},
            ],
        }
    ]


def test_a_large_result_is_told_by_its_size() -> None:
    assert clip_json({"a": 1}) == '{"a":1}'
    assert clip_json("x" * CONTENT_BYTES_MAX) == '"65538 bytes are not shown"'
    assert convention_reason("stop") == "stop"
