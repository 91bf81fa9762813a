"""A run state is the same whether its events were emitted here or read from a stored log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log import record
from rejoin_protocol.log.record import Audience, Head, Mark, Record
from rejoin_runner.next_action.run_state import Phase, RunState, StepPhase, usage_of

CHUNKS: list[Chunk] = [
    chunks.Start(message_id="m"),
    chunks.StartStep(),
    chunks.Data(type="data-x", data=1),
    chunks.ToolInputAvailable(tool_call_id="c", tool_name="t", input={}),
    chunks.ToolInputAvailable(tool_call_id="d", tool_name="delegate_to_dig", input={"task": "deep"}),
    chunks.ToolInputAvailable(tool_call_id="b", tool_name="transfer_to_billing", input={}),
    chunks.MessageMetadata(message_metadata={"usage": {"inputTokens": 3, "outputTokens": 4}}),
    chunks.ResetStep(),
    chunks.FinishStep(),
    chunks.Data(type="data-operation", data={"type": "error", "code": "deadline"}, transient=True),
]
MARKS = [mark for mark in Mark if mark is not Mark.RESTORED]
FIELDS = (
    "index",
    "audiences",
    "phase",
    "suspensions",
    "steps",
    "step",
    "calls",
    "approval_ids",
    "error",
    "error_code",
    "message",
    "all_open_calls",
    "earlier_calls",
    "frames",
)


def fields(state: RunState) -> dict[str, object]:
    values = {name: getattr(state, name) for name in FIELDS}
    stack = state.frames.stack
    return values | {
        "frames": [(one.call, one.agent, one.successor, one.steps, one.steps_since_handoff) for one in stack]
    }


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from(CHUNKS), max_size=4), st.sampled_from(Audience), st.sampled_from(MARKS)
        )
    )
)
def test_a_stored_log_gives_the_state_of_the_live_run(
    batches: list[tuple[list[Chunk], Audience, Mark]],
) -> None:
    live, read = RunState(), RunState()
    for seq, (events, audience, mark) in enumerate(batches, 1):
        payload = record.encode_frames(map(chunks.encode, events), prev=seq - 1, index=live.index)
        head = Head(
            seq - 1,
            1,
            live.index,
            len(events),
            live.audiences[Audience.OPERATIONS],
            live.audiences[Audience.V7],
            audience,
            mark,
            live.suspensions,
        )
        for event in events:
            live.apply(event, audience)
        live.apply_mark(mark)
        read.apply_record(Record(seq, head, payload))
    assert fields(live) == fields(read)
    assert read.last_seq == len(batches)


def test_open_parts_are_closed_in_order() -> None:
    state = RunState()
    for chunk in (chunks.TextStart(id="t"), chunks.ReasoningStart(id="r")):
        state.apply(chunk)
    assert state.closing_chunks() == [chunks.TextEnd(id="t"), chunks.ReasoningEnd(id="r")]


def test_usage_comes_from_the_metadata_and_is_empty_without_it() -> None:
    assert usage_of({"id": "m", "role": "assistant", "parts": []}) == {}
    assert usage_of({"metadata": {"usage": {"inputTokens": 1}}}) == {"inputTokens": 1}
    assert usage_of({"metadata": "odd"}) == {}


START, STEP, END_STEP = chunks.Start(message_id="m"), chunks.StartStep(), chunks.FinishStep()
DATA, RESET = chunks.Data(type="data-x", data=1), chunks.ResetStep()
PHASES: dict[str, tuple[list[Chunk | Mark], Phase, StepPhase]] = {
    "an empty log": ([], Phase.NOT_STARTED, StepPhase.CLOSED),
    "a started message": ([START], Phase.RUNNING, StepPhase.CLOSED),
    "a new step": ([START, STEP], Phase.RUNNING, StepPhase.EMPTY),
    "the first event of a response": ([START, STEP, DATA], Phase.RUNNING, StepPhase.PARTIAL),
    "a voided step": ([START, STEP, DATA, RESET], Phase.RUNNING, StepPhase.EMPTY),
    "a complete response": ([START, STEP, DATA, Mark.GENERATED], Phase.RUNNING, StepPhase.GENERATED),
    "an event after a response": ([START, STEP, Mark.GENERATED, DATA], Phase.RUNNING, StepPhase.GENERATED),
    "a closed step": ([START, STEP, Mark.GENERATED, END_STEP], Phase.RUNNING, StepPhase.CLOSED),
    "a step that failed": ([START, STEP, DATA, END_STEP], Phase.RUNNING, StepPhase.INCOMPLETE),
    "an event between two steps": (
        [START, STEP, Mark.GENERATED, END_STEP, DATA],
        Phase.RUNNING,
        StepPhase.CLOSED,
    ),
    "a suspension": ([START, chunks.Finish(), Mark.SUSPENDED], Phase.SUSPENDED, StepPhase.CLOSED),
    "a continued message": ([START, Mark.SUSPENDED, START], Phase.RUNNING, StepPhase.CLOSED),
    "a message that is being restored": ([START, Mark.RESTORED, STEP], Phase.RESTORING, StepPhase.EMPTY),
    "a restored message": (
        [START, Mark.RESTORED, STEP, DATA, END_STEP, Mark.SUSPENDED],
        Phase.SUSPENDED,
        StepPhase.INCOMPLETE,
    ),
    "a complete log": ([START, chunks.Finish(), Mark.ENDED], Phase.ENDED, StepPhase.CLOSED),
}


@pytest.mark.parametrize("name", PHASES)
def test_phases(name: str) -> None:
    log, phase, step = PHASES[name]
    state = RunState()
    for entry in log:
        if isinstance(entry, Mark):
            state.apply_mark(entry)
        else:
            state.apply(entry)
    assert (state.phase, state.step) == (phase, step)


def test_a_log_whose_first_records_have_expired_keeps_its_counters() -> None:
    """Its events cannot be folded; a journal that continues the log needs the counters of its heads."""
    state = RunState()
    payload = record.encode_frames([chunks.encode(DATA)], prev=6, index=40)
    state.apply_record(Record(7, Head(6, 2, 40, 1, turn=3), payload))
    assert (state.start_expired, state.phase) == (True, Phase.NOT_STARTED)
    assert (state.last_seq, state.attempt, state.index, state.suspensions) == (7, 2, 41, 3)
