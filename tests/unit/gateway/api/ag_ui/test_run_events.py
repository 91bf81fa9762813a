"""A run's events in AG-UI: valid by the protocol's own types and its client's rules, whatever a run does."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rejoin_gateway.api.ag_ui.run_events import Event, RunEvents, RunName
from rejoin_gateway.api.ag_ui.thread_messages import parse_call_id, to_thread_messages, wire_call_id
from rejoin_protocol.events import chunks as c
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import fold
from rejoin_protocol.events.typed_output import OUTPUT_ID, STATE_KEY, output_chunk
from rejoin_protocol.events.unfold import unfold
from tests.support.clients.ag_ui_client import Thread
from tests.support.data.chunk_strategies import sensible_runs

ANSWER = "msg_" + "0" * 26
NAME = RunName("thread", "run", ANSWER)
CLIENT = {"rejoin": {"client": True}}
HELLO: tuple[Chunk, ...] = (c.TextStart("t"), c.TextDelta("t", "Hel"), c.TextDelta("t", "lo"), c.TextEnd("t"))


def play(run: Sequence[Chunk], *, before: Sequence[Chunk] = (), shows_outputs: bool = False) -> list[Event]:
    events = RunEvents(NAME, shows_outputs=shows_outputs)
    for chunk in before:
        events.feed(chunk)
    made = events.begin()
    for chunk in run:
        made += events.feed(chunk)
    return [*made, *events.end()]


def thread_of(events: Sequence[Event]) -> Thread:
    thread = Thread()
    for event in events:
        thread.apply(event)
    return thread


def kinds(events: Sequence[Event]) -> list[str]:
    return [event["type"] for event in events]


def comparable(messages: Sequence[dict[str, Any]]) -> list[Any]:
    """Without what a stream cannot say: the field `error`, arguments that were cut off, where the result of a
    tool stands among others of the same message, that reasoning which was taken back is no more, and where
    it stands if the next try has some.
    """
    shown = []
    for message in messages:
        if (message["role"], message.get("content")) == ("reasoning", ""):
            continue
        calls = [(one["id"], one["function"]["name"]) for one in message.get("toolCalls", ())]
        shown.append((message["id"], message["role"], message.get("content", ""), calls))
    apart = sorted(one for one in shown if one[1] in ("tool", "reasoning"))
    return [*(one for one in shown if one not in apart), *apart]


@given(sensible_runs())
def test_any_run_is_a_valid_stream_that_makes_the_messages_of_a_snapshot(run: list[Chunk]) -> None:
    """So a client that reads the stream and one that reads the thread later have the same."""
    run = [c.Start(ANSWER), *run[1:]]
    steered = {chunk.id for chunk in run if isinstance(chunk, c.SteeringMessage)}
    if len(steered) < sum(isinstance(chunk, c.SteeringMessage) for chunk in run):
        return  # each has an id of its own
    thread = thread_of(play(run, shows_outputs=True))
    assert comparable(thread.messages) == comparable(to_thread_messages(fold(run)))


@given(sensible_runs(), st.data())
def test_a_turn_continues_the_numbers_of_the_turns_before(run: list[Chunk], data: st.DataObject) -> None:
    """Also of those whose log has expired, which the stored message replaces."""
    run = [c.Start(ANSWER), *run[1:]]
    starts = [at for at, chunk in enumerate(run) if isinstance(chunk, c.StartStep)]
    at = data.draw(st.sampled_from([*starts, len(run)]))
    before, rest = run[:at], run[at:]
    assert kinds(play(rest, before=before)) == kinds(play(rest, before=unfold(fold(before))))
    ids = [
        [event.get("messageId") for event in play(rest, before=one)] for one in (before, unfold(fold(before)))
    ]
    assert ids[0] == ids[1]


def test_a_step_that_is_repeated_after_a_crash_is_taken_back() -> None:
    run: list[Chunk] = [
        c.Start(ANSWER),
        c.StartStep(),
        *HELLO[:2],
        c.ResetStep(),
        *HELLO,
        c.FinishStep(),
        c.Finish("stop"),
    ]
    events = play(run)
    thread = thread_of(events)
    assert thread.texts == ["assistant: Hello"]
    at = kinds(events).index("MESSAGES_SNAPSHOT")
    assert events[at - 1] == {"type": "TEXT_MESSAGE_END", "messageId": ANSWER}
    assert events[at]["messages"] == []


def test_a_run_that_waits_for_a_person_ends_with_its_interrupts() -> None:
    asked: list[Chunk] = [
        c.Start(ANSWER),
        c.StartStep(),
        c.ToolInputAvailable("c1", "book", {"city": "Oslo"}),
        c.ToolApprovalRequest("apr_1", "c1"),
        c.FinishStep(),
        c.Finish("tool-calls", {"usage": {"inputTokens": 5, "outputTokens": 2}}),
    ]
    events = play(asked)
    [interrupt] = events[-1]["outcome"]["interrupts"]
    assert (interrupt["id"], interrupt["reason"]) == ("apr_1", "tool_call")
    assert interrupt["toolCallId"] == wire_call_id(ANSWER, "c1")
    assert interrupt["metadata"] == {"toolName": "book", "input": {"city": "Oslo"}}
    assert events[-1]["usage"] == [{"inputTokens": 5, "outputTokens": 2}]
    rest: list[Chunk] = [
        c.Start(ANSWER),
        c.ToolApprovalResponse("apr_1", approved=False, reason="too far"),
        c.ToolOutputDenied("c1"),
        c.StartStep(),
        *HELLO,
        c.FinishStep(),
        c.Finish("stop", {"usage": {"inputTokens": 12, "outputTokens": 3}}),
    ]
    continued = play(rest, before=asked)
    assert continued[1]["content"] == "The call was denied. Reason: too far"
    assert "TOOL_CALL_START" not in kinds(continued), "a call is made once"
    assert continued[-1]["outcome"] == {"type": "success"}
    assert continued[-1]["usage"] == [{"inputTokens": 7, "outputTokens": 1}]
    assert [one["messageId"] for one in continued if one["type"] == "TEXT_MESSAGE_START"] == [f"{ANSWER}.2"]


def test_a_run_that_waits_for_the_client_names_its_calls() -> None:
    asked: list[Chunk] = [
        c.Start(ANSWER),
        c.ToolInputAvailable("c1", "locate", {}, provider_metadata=CLIENT),
        c.Finish(),
    ]
    assert play(asked)[-1]["outcome"] == {
        "type": "success",
        "pendingToolCallIds": [wire_call_id(ANSWER, "c1")],
    }
    old = RunEvents(RunName("thread", "run", ANSWER, is_old=True))
    for chunk in asked:
        old.feed(chunk)
    assert old.end()[-1]["outcome"] == {"type": "success"}, "it refuses the field"
    rest: list[Chunk] = [c.Start(ANSWER), c.ToolOutputAvailable("c1", {"city": "Oslo"}), c.Finish("stop")]
    assert "TOOL_CALL_RESULT" not in kinds(play(rest, before=asked)), "its client has the message"
    [shown] = [one for one in play([*asked, *rest], shows_outputs=True) if one["type"] == "TOOL_CALL_RESULT"]
    assert json.loads(shown["content"]) == {"city": "Oslo"}


def test_failures_and_interrupts_close_what_is_open() -> None:
    begun: list[Chunk] = [c.Start(ANSWER), c.StartStep(), *HELLO[:2]]
    failed = play([*begun, c.Error("The model broke."), c.Finish("error")])
    assert failed[-1] == {"type": "RUN_ERROR", "message": "The model broke.", "code": "run_failed"}
    stopped = play([*begun, c.Abort(), c.Finish("interrupted")])
    assert stopped[-1]["outcome"] == {"type": "cancelled"}
    for events in (failed, stopped):
        assert thread_of(events).texts == ["assistant: Hel"]
        assert kinds(events)[-3:-1] == ["TEXT_MESSAGE_END", "STEP_FINISHED"]


def test_a_typed_answer_is_the_result_and_one_text() -> None:
    run: list[Chunk] = [
        c.Start(ANSWER, {STATE_KEY: "partial"}),
        c.StartStep(),
        output_chunk({"city": "Os"}),
        output_chunk({"city": "Oslo"}),
        c.MessageMetadata({STATE_KEY: "done"}),
        c.FinishStep(),
        c.Finish("stop"),
    ]
    events = play(run)
    assert events[-1]["result"] == {"city": "Oslo"}
    assert thread_of(events).texts == ['assistant: {"city":"Oslo"}']
    assert [one["value"] for one in events if one["type"] == "CUSTOM"] == [{"city": "Os"}, {"city": "Oslo"}]
    assert {one["metadata"]["id"] for one in events if one["type"] == "CUSTOM"} == {OUTPUT_ID}
    assert comparable(to_thread_messages(fold(run))) == comparable(thread_of(events).messages)


def test_the_id_of_a_call_names_its_answer() -> None:
    assert parse_call_id(wire_call_id(ANSWER, "c.1\n🍲")) == (ANSWER, "c.1\n🍲")
    for odd in ("", "call_1", ANSWER, f"{ANSWER}.", "msg_1.c"):
        assert parse_call_id(odd) is None
