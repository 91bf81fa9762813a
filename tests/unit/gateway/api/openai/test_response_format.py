"""The log of a run is converted to the events of a response: order, numbers, and voided ranges."""

from typing import Any

import msgspec
import pytest

from rejoin_gateway.api.openai.completion_format import CompletionMetadata
from rejoin_gateway.api.openai.response_format import (
    ResponseEvent,
    ResponseStream,
    SequenceRange,
    parse_response_id,
    visible_events,
)
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import AgentName, SessionId, new_run_id

FACTS = CompletionMetadata(new_run_id(1_700_000_000_123, bytes(range(10))), SessionId("s"), AgentName("a"))
HELLO: list[Chunk] = [chunks.TextStart("t"), chunks.TextDelta("t", "Hel"), chunks.TextDelta("t", "lo")]
END: list[Chunk] = [chunks.TextEnd("t"), chunks.FinishStep(), chunks.Finish("stop")]
BEGIN: list[Chunk] = [chunks.Start("m"), chunks.StartStep()]
CALL = chunks.ToolInputAvailable("call_1", "delete", {"file": "a"})
ASK = chunks.ToolApprovalRequest("apr_1", "call_1")


def fed(*events: Chunk) -> tuple[ResponseStream, list[ResponseEvent]]:
    response = ResponseStream(FACTS)
    return response, [said for event in events for said in response.feed(event)]


def types(events: list[ResponseEvent]) -> list[str]:
    return [event.type.removeprefix("response.") for event in events]


def failure(text: str) -> dict[str, Any]:
    """The error of a call."""
    return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": text}]}


def final(*events: Chunk) -> dict[str, Any]:
    response, _ = fed(*events)
    assert response.final is not None
    return response.final


def test_ids_go_both_ways() -> None:
    """A response is a run, and nothing else is one."""
    id: str = ResponseStream(FACTS).body("queued")["id"]
    assert id == f"resp_{FACTS.ulid}"
    assert parse_response_id(id) == (FACTS.run, 0)
    later = msgspec.structs.replace(FACTS, turn=2)
    assert parse_response_id(ResponseStream(later).body("queued")["id"]) == (FACTS.run, 2)
    sharded = msgspec.structs.replace(later, run=new_run_id(1, bytes(10), (12,)))
    assert parse_response_id(ResponseStream(sharded).body("queued")["id"]) == (sharded.run, 2)
    odd_ids = ("", "resp_", FACTS.run, f"{id}0", f"{id}_0", f"{id}_x", f"{id}_", f"resp_{'.' * 26}")
    for odd in (*odd_ids, "resp_" + "é" * 26, f"{id}_{'9' * 10}"):
        assert parse_response_id(odd) == (None, 0)


def test_a_text_is_an_item_with_a_part() -> None:
    """Every event in its place, numbered from 0 without a hole."""
    response, events = fed(*BEGIN, *HELLO, *END)
    assert types(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.number for event in events] == list(range(10))
    assert events[6].body["text"] == "Hello"
    assert events[2].body["item"]["content"] == []
    assert events[3].body["part"]["text"] == ""
    (item,) = events[-1].body["response"]["output"]
    assert (item["id"], item["status"]) == (f"msg_{FACTS.ulid}_0", "completed")
    assert item["content"][0]["text"] == "Hello"
    assert response.final == events[-1].body["response"]
    assert response.final is not None
    assert response.final["conversation"] == {"id": "s"}


def test_reasoning_is_a_summary() -> None:
    """It may have the same id as a text."""
    _, events = fed(
        *BEGIN,
        chunks.ReasoningStart("t"),
        chunks.ReasoningDelta("t", "hm"),
        chunks.ReasoningEnd("t"),
        *HELLO,
        *END,
    )
    assert types(events)[2:8] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
    ]
    thought, said = events[-1].body["response"]["output"]
    assert (thought["type"], thought["summary"]) == ("reasoning", [{"type": "summary_text", "text": "hm"}])
    assert said["content"][0]["text"] == "Hello"


@pytest.mark.parametrize(
    ("end", "status", "output", "fault"),
    [
        (chunks.ToolOutputAvailable("call_1", {"n": 1}), "completed", '{"n":1}', None),
        (chunks.ToolOutputError("call_1", "broken"), "failed", None, failure("broken")),
        (chunks.ToolOutputDenied("call_1"), "failed", None, failure("denied")),
    ],
)
def test_a_tool_that_ran_here_is_an_mcp_call(
    end: Chunk, status: str, output: str | None, fault: dict[str, Any] | None
) -> None:
    """A function call would ask the client to run it. A preliminary output does not complete the call."""
    preliminary = chunks.ToolOutputAvailable("call_1", "so far", preliminary=True)
    _, events = fed(*BEGIN, CALL, preliminary, end, *END[1:])
    assert types(events)[2:-1] == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        f"mcp_call.{status}",
        "output_item.done",
    ]
    [item] = events[-1].body["response"]["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("mcp_call", "delete", '{"file":"a"}')
    assert (item["status"], item["output"], item["error"]) == (status, output, fault)


def test_arguments_that_do_not_fit_are_a_failed_call() -> None:
    """The call was never available."""
    misfit = chunks.ToolInputError("call_1", "delete", {"fil": 1}, "there is no fil")
    _, events = fed(*BEGIN, misfit)
    assert types(events)[-2:] == ["mcp_call.failed", "output_item.done"]
    assert events[-1].body["item"]["error"] == failure("there is no fil")


def test_a_question_ends_the_response_and_an_answer_goes_on_with_it() -> None:
    """Under the same id; what said that it waits keeps its number."""
    asking: list[Chunk] = [*BEGIN, CALL, ASK, chunks.FinishStep(), chunks.Finish("tool-calls")]
    waiting, before = fed(*asking)
    assert types(before)[-1] == "completed"
    assert waiting.suspended_at == before[-1].number
    assert waiting.final is not None
    assert waiting.final["status"] == "completed"
    assert [item["type"] for item in waiting.final["output"]] == ["mcp_call", "mcp_approval_request"]
    assert waiting.final["output"][1]["id"] == "apr_1"
    assert waiting.final["rejoin"]["pending_approvals"][0]["approval_id"] == "apr_1"
    answer: list[Chunk] = [
        chunks.ToolApprovalResponse("apr_1", approved=True),
        chunks.ToolOutputAvailable("call_1", "gone"),
    ]
    whole, events = fed(*asking, chunks.Start("m"), *answer, chunks.FinishStep(), *HELLO, *END)
    assert events[: len(before)] == before, "what was said stays as it was said"
    assert whole.final is not None
    assert whole.final["status"] == "completed"
    assert [item["type"] for item in whole.final["output"]] == ["mcp_call", "mcp_approval_request", "message"]
    again = visible_events(events, -1, ())
    assert types(again).count("created") == 1, "a stream of the whole is created once"
    rest = visible_events(events, whole.suspended_at, ())
    assert types(rest)[:4] == ["created", "in_progress", "mcp_call.completed", "output_item.done"]


@pytest.mark.parametrize(
    ("events", "status", "details"),
    [
        ([chunks.Error("It failed."), chunks.Finish("error")], "failed", None),
        ([chunks.Abort("stopped"), chunks.Finish("other")], "cancelled", None),
        ([chunks.Finish("length")], "incomplete", {"reason": "max_output_tokens"}),
        ([CALL, chunks.ToolOutputAvailable("call_1", 1), chunks.Finish("tool-calls")], "incomplete", None),
    ],
)
def test_every_end_has_a_status(events: list[Chunk], status: str, details: Any) -> None:
    """And an item that was open then is incomplete."""
    ended = final(*BEGIN, *HELLO, *events)
    assert ended["status"] == status
    assert ended["incomplete_details"] == details
    assert ended["output"][0]["status"] == "incomplete"
    assert ended["output"][0]["content"][0]["text"] == "Hello"
    assert (ended["error"] is not None) == (status == "failed")


def test_usage_is_the_runs() -> None:
    """Left out until the run reports it."""
    used = {"inputTokens": 3, "outputTokens": 2, "reasoningTokens": 1}
    said = final(*BEGIN, chunks.MessageMetadata({"usage": used}), *END[1:])["usage"]
    assert (said["input_tokens"], said["output_tokens"], said["total_tokens"]) == (3, 2, 5)
    assert said["output_tokens_details"] == {"reasoning_tokens": 1}
    assert "usage" not in final(*BEGIN, *END[1:])


def test_what_is_voided_keeps_its_numbers_and_is_not_shown() -> None:
    """The step that is made again has the same items; events outside of it have the same numbers."""
    first = [*BEGIN, *HELLO, *END[:2]]
    torn = [chunks.StartStep(), *HELLO, CALL, chunks.ResetStep()]
    again = [chunks.TextStart("t"), chunks.TextDelta("t", "Bye"), *END]
    response, events = fed(*first, *torn, *again)
    (void,) = response.voided
    _, before = fed(*first)
    assert void == SequenceRange(len(before), len(before) + 8)
    corrected = visible_events(events, -1, response.voided)
    assert corrected[: len(before)] == before
    assert corrected[len(before)].number == void.end
    _, rest = fed(*first, chunks.StartStep(), *again)
    assert types(corrected) == types(rest)
    assert [event.body.get("item") for event in corrected] == [event.body.get("item") for event in rest]
    assert corrected[-1].body["response"] == rest[-1].body["response"]


def test_nothing_said_is_nothing_voided() -> None:
    """A step that was torn before it said anything that this protocol has a word for."""
    response, _ = fed(*BEGIN, chunks.ToolInputStart("call_1", "delete"), chunks.ResetStep())
    assert response.voided == [SequenceRange(2, 2)]


@pytest.mark.parametrize("cut", range(10))
def test_any_number_is_a_place_to_go_on(cut: int) -> None:
    """The events after the number are exactly the rest."""
    _, events = fed(*BEGIN, *HELLO, *END)
    assert visible_events(events, cut, ()) == events[cut + 1 :]
