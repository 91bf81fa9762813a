"""All that the gateway sends fits the types that OpenAI publishes, read without any conversion."""

from typing import Any

import msgspec
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from rejoin_adapters.usage_types import RunUsage
from rejoin_gateway.api.openai.completion_format import (
    CompletionMetadata,
    CompletionStream,
    build_completion,
    pending_calls_in,
)
from rejoin_gateway.api.openai.completions import ModelEntry
from rejoin_gateway.api.openai.response_format import ResponseStream
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.own_metadata import CLIENT_KEY, add_own
from rejoin_protocol.ids import AgentName, SessionId, new_run_id

RUN = CompletionMetadata(
    new_run_id(1_700_000_000_123, bytes(range(10))), SessionId("s"), AgentName("a"), 0, RunUsage()
)
USAGE = chunks.MessageMetadata({"usage": {"inputTokens": 3, "outputTokens": 2, "reasoningTokens": 1}})
TOOL = chunks.ToolInputAvailable("c1", "find", {"city": "Oslo"})
CLIENT_TOOL = chunks.ToolInputAvailable(
    "c2", "locate", {}, provider_metadata=add_own(msgspec.UNSET, CLIENT_KEY, value=True)
)
BEGIN: list[Chunk] = [
    chunks.Start("m"),
    chunks.StartStep(),
    chunks.ReasoningStart("t"),
    chunks.ReasoningDelta("t", "hm"),
    chunks.ReasoningEnd("t"),
    chunks.TextStart("t"),
    chunks.TextDelta("t", "Hello"),
    chunks.TextEnd("t"),
    TOOL,
]
ASK = chunks.ToolApprovalRequest("apr_1", "c1")
RUNS: dict[str, list[Chunk]] = {
    "completed": [chunks.ToolOutputAvailable("c1", {"n": 1}), USAGE, chunks.Finish("stop")],
    "failed": [chunks.ToolOutputError("c1", "broken"), chunks.Error("It failed."), chunks.Finish("error")],
    "cancelled": [chunks.Abort("stopped"), chunks.Finish("other")],
    "no tokens left": [chunks.ToolOutputDenied("c1"), USAGE, chunks.Finish("length")],
    "no steps left": [chunks.ToolOutputDenied("c1"), USAGE, chunks.Finish("tool-calls")],
    "filtered": [chunks.Finish("content-filter")],
    "arguments that do not fit": [
        chunks.ToolInputError("c3", "find", "{", "it is no JSON"),
        chunks.Finish("stop"),
    ],
    "approval": [ASK, USAGE, chunks.Finish("tool-calls")],
    "approved": [
        ASK,
        chunks.Finish("tool-calls"),
        chunks.Start("m"),
        chunks.ToolApprovalResponse("apr_1", approved=True),
        chunks.ToolOutputAvailable("c1", "gone"),
        chunks.Finish("stop"),
    ],
    "calls for the client": [
        chunks.ToolOutputAvailable("c1", "1"),
        CLIENT_TOOL,
        USAGE,
        chunks.Finish("tool-calls"),
    ],
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SENT = {
    *("created", "in_progress", "completed", "failed", "incomplete"),
    *("output_item.added", "output_item.done", "content_part.added", "content_part.done"),
    *("output_text.delta", "output_text.done"),
    *("reasoning_summary_part.added", "reasoning_summary_part.done"),
    *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
    *("function_call_arguments.delta", "function_call_arguments.done"),
    *("mcp_call_arguments.delta", "mcp_call_arguments.done"),
    *("mcp_call.in_progress", "mcp_call.completed", "mcp_call.failed"),
}


def as_sent(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def response_events(run: list[Chunk]) -> tuple[ResponseStream, list[dict[str, Any]]]:
    response = ResponseStream(RUN)
    return response, [as_sent(event.body) for chunk in run for event in response.feed(chunk)]


@pytest.mark.parametrize("end", RUNS)
def test_each_event_of_a_response_fits(end: str) -> None:
    response, events = response_events(BEGIN + RUNS[end])
    for event in events:
        read = EVENT.validate_python(event, strict=True)
        assert read.type == event["type"]
    assert response.final is not None
    Response.model_validate(as_sent(response.final), strict=True)
    for status in ("queued", "in_progress"):
        Response.model_validate(as_sent(ResponseStream(RUN).body(status)), strict=True)


def test_there_is_a_run_for_each_type_of_event() -> None:
    seen = {event["type"] for end in RUNS.values() for event in response_events(BEGIN + end)[1]}
    assert {type.removeprefix("response.") for type in seen} == SENT


@pytest.mark.parametrize("end", RUNS)
def test_a_completion_and_each_of_its_chunks_fit(end: str) -> None:
    run = BEGIN + RUNS[end]
    stream = CompletionStream(RUN, include_usage=True)
    parts = [part for chunk in run for part in stream.feed(chunk)] + stream.end()
    for part in parts:
        if "error" not in part:
            ChatCompletionChunk.model_validate(as_sent(part), strict=True)
    assert ("error" in parts[-1]) == (end == "failed")
    whole = build_completion(RUN, "Hello", "stop", pending_calls_in(run), {"usage": {"inputTokens": 1}})
    ChatCompletion.model_validate(as_sent(whole), strict=True)


def test_an_agent_fits_as_a_model() -> None:
    Model.model_validate(as_sent(ModelEntry("a", 1_700_000_000, "Helps.")), strict=True)
