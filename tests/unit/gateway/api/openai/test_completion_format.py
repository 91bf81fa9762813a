"""Events of a run are converted to a chat completion."""

from typing import Any

from rejoin_gateway.api.openai.completion_format import (
    CompletionMetadata,
    CompletionStream,
    build_completion,
    pending_calls_in,
)
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import AgentName, RunId, SessionId, new_run_id

TIME_MS = 1_700_000_000_123
FACTS = CompletionMetadata(new_run_id(TIME_MS, bytes(10)), SessionId("s"), AgentName("a"))
USAGE = {"inputTokens": 3, "outputTokens": 2, "cachedInputTokens": 1}
SAID: list[Chunk] = [
    chunks.Start("m"),
    chunks.StartStep(),
    chunks.ReasoningStart("r"),
    chunks.ReasoningDelta("r", "hm"),
    chunks.ReasoningEnd("r"),
    chunks.TextStart("t"),
    chunks.TextDelta("t", "Hel"),
    chunks.TextDelta("t", "lo"),
    chunks.TextEnd("t"),
    chunks.MessageMetadata({"usage": USAGE}),
    chunks.FinishStep(),
    chunks.Finish("stop"),
]
ASKING: list[Chunk] = [
    chunks.ToolInputAvailable("call_1", "delete", {"file": "a"}),
    chunks.ToolApprovalRequest("apr_1", "call_1"),
]


def streamed(events: list[Chunk], *, include_usage: bool = False) -> list[dict[str, Any]]:
    answer = CompletionStream(FACTS, include_usage=include_usage)
    return [part for event in events for part in answer.feed(event)] + answer.end()


def test_a_runs_id_says_when_it_was_made() -> None:
    """So every gateway returns the same time."""
    assert FACTS.created_s == TIME_MS // 1000
    assert FACTS.run == f"run_{FACTS.ulid}" == RunId(f"run_{FACTS.ulid}")


def test_a_text_is_streamed_as_deltas() -> None:
    """One role, the deltas, one finish reason. Events without a counterpart in the protocol are left out."""
    said = streamed(SAID)
    assert [part["choices"][0]["delta"] for part in said] == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [part["choices"][0]["finish_reason"] for part in said] == [None, None, None, "stop"]
    assert said[-1]["rejoin"] == {"run_id": FACTS.run, "conversation_id": "s", "pending_approvals": []}
    assert all("usage" not in part for part in said)


def test_usage_is_a_chunk_of_its_own_for_those_who_want_it() -> None:
    """The others say null, as OpenAI's do."""
    *others, last = streamed(SAID, include_usage=True)
    assert [part["usage"] for part in others] == [None] * len(others)
    assert last["choices"] == []
    assert last["usage"]["prompt_tokens"] == 3
    assert last["usage"]["total_tokens"] == 5
    assert last["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


def test_a_run_that_waits_stops_and_says_for_what() -> None:
    """A call that is answered is not waited for."""
    pending = [
        {"approval_id": "apr_1", "tool_call_id": "call_1", "tool_name": "delete", "input": {"file": "a"}}
    ]
    begin: list[Chunk] = [chunks.Start("m"), *ASKING]
    last = streamed([*begin, chunks.Finish("tool-calls")])[-1]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["rejoin"]["pending_approvals"] == pending
    answers: list[Chunk] = [
        chunks.ToolApprovalResponse("apr_1", approved=True),
        chunks.ToolOutputDenied("call_1"),
        chunks.ToolOutputAvailable("call_1", "done"),
        chunks.ToolOutputError("call_1", "no"),
    ]
    for answer in answers:
        assert pending_calls_in([*ASKING, answer]).pending == []


def test_a_second_turn_does_not_begin_the_message_again() -> None:
    """The role is said once."""
    turns: list[Chunk] = [chunks.Start("m"), chunks.Finish("tool-calls"), *SAID]
    said = streamed(turns)
    assert [part["choices"][0]["delta"].get("role") for part in said] == ["assistant", None, None, None]
    assert said[-1]["choices"][0]["finish_reason"] == "stop"


def test_a_failure_ends_the_stream_as_an_error() -> None:
    """A client of OpenAI's raises it."""
    failed: list[Chunk] = [*SAID[:7], chunks.Error("The model failed."), chunks.Finish("error")]
    assert streamed(failed)[-1]["error"]["message"] == "The model failed."


def test_reasons_are_said_in_their_words() -> None:
    """Running out of steps is running out of length."""
    for ours, theirs in (
        ("length", "length"),
        ("content-filter", "content_filter"),
        ("tool-calls", "length"),
    ):
        whole = build_completion(FACTS, "Hello", ours, pending_calls_in([]), {"usage": USAGE})
        assert whole["choices"][0]["finish_reason"] == theirs
        assert whole["choices"][0]["message"]["content"] == "Hello"
        assert whole["usage"]["total_tokens"] == 5
