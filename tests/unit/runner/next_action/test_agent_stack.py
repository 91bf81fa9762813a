"""`AgentStack` is the same from live events, from a stored log and from a restored message."""

from typing import Any

import pytest
from msgspec import UNSET

from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.events.fold import MessageDict, fold
from rejoin_protocol.events.unfold import unfold
from rejoin_protocol.ids import CallId
from rejoin_protocol.log.record import Mark
from rejoin_runner.next_action import agent_stack
from rejoin_runner.next_action.agent_stack import ORIGIN_METADATA_KEY, PartOrigin, current_agent
from rejoin_runner.next_action.run_state import RunState

START = chunks.Start(message_id="m")


def called(id: str, tool: str, **input: Any) -> Chunk:
    return chunks.ToolInputAvailable(tool_call_id=id, tool_name=tool, input=input)


def output(id: str, value: str = "fine") -> Chunk:
    return chunks.ToolOutputAvailable(tool_call_id=id, output=value)


def text(content: str, id: str = "t") -> list[Chunk]:
    return [chunks.TextStart(id=id), chunks.TextDelta(id=id, delta=content), chunks.TextEnd(id=id)]


def step(*events: Chunk | list[Chunk], by: PartOrigin | None = None) -> list[Chunk | Mark]:
    """A finished step, of the conversation or of a delegated agent."""
    flat = [one for event in events for one in (event if isinstance(event, list) else [event])]
    own = flat if by is None else [agent_stack.with_origin(one, by) for one in flat]
    return [chunks.StartStep(), *own, Mark.GENERATED, chunks.FinishStep()]


def state_of(*log: Any) -> RunState:
    """The state of a log of chunks, marks and steps."""
    state = RunState()
    for entry in log:
        for event in entry if isinstance(entry, list) else [entry]:
            if isinstance(event, Mark):
                state.apply_mark(event)
            else:
                state.apply(event)
    return state


def stack(state: RunState) -> list[tuple[str | None, str | None, int]]:
    """The frames as call, agent and number of steps."""
    return [(f.call.id if f.call else None, f.agent, f.steps) for f in state.frames.stack]


RESEARCH = PartOrigin("research", CallId("c1"))
SECOND = PartOrigin("research", CallId("c2"))
DIG = PartOrigin("dig", CallId("d1"))
TWO = step(
    called("c1", "delegate_to_research", task="find it"), called("c2", "delegate_to_research", task="again")
)


def test_a_run_without_other_agents_is_one_frame() -> None:
    assert stack(state_of(START, step(text("hi")))) == [(None, None, 1)]


def test_the_step_after_a_delegate_call_is_the_targets_and_its_output_ends_the_frame() -> None:
    log = [START, TWO, step(text("Found."), by=RESEARCH)]
    assert stack(state_of(*log)) == [(None, None, 1), ("c1", "research", 1)]
    assert stack(state_of(*log, output("c1"))) == [(None, None, 1)]


def test_open_delegate_calls_of_one_step_run_one_after_the_other() -> None:
    log = [START, TWO, step(text("Found."), by=RESEARCH), output("c1")]
    one = state_of(*log)
    assert one.frames.next_call is not None
    assert one.frames.next_call.id == "c2"
    assert stack(state_of(*log, chunks.StartStep())) == [(None, None, 1), ("c2", "research", 1)]
    after = state_of(*log, step(text("Again."), by=SECOND), output("c2"), chunks.StartStep())
    assert stack(after) == [(None, None, 2)]


NESTED = [
    START,
    TWO,
    step(called("d1", "delegate_to_dig", task="dig"), by=RESEARCH),
    step(called("x", "look"), by=DIG),
]


def test_a_delegated_agent_may_delegate() -> None:
    one = state_of(*NESTED)
    assert stack(one) == [(None, None, 1), ("c1", "research", 1), ("d1", "dig", 1)]
    assert [call.id for call in one.open_calls] == ["x"]
    assert [call.id for call in one.all_open_calls] == ["x", "d1", "c1", "c2"]


def test_a_response_that_is_void_opens_no_frame() -> None:
    log = [START, chunks.StartStep(), called("c1", "delegate_to_research", task=""), chunks.ResetStep()]
    assert state_of(*log).frames.next_call is None


def test_a_frame_stays_open_while_its_own_response_is_void() -> None:
    log = [START, TWO, chunks.StartStep(), *text("half")[:1], chunks.ResetStep()]
    assert stack(state_of(*log)) == [(None, None, 1), ("c1", "research", 1)]


def test_an_id_that_an_earlier_delegate_call_had_opens_a_new_frame() -> None:
    log = [START, step(called("c1", "delegate_to_research", task="")), step(text("x"), by=RESEARCH)]
    again = [output("c1"), step(called("c1", "delegate_to_dig", task="")), chunks.StartStep()]
    assert stack(state_of(*log, *again)) == [(None, None, 2), ("c1", "dig", 1)]


def test_a_finished_handoff_counts_from_the_next_step_on() -> None:
    log = [START, step(called("t", "transfer_to_billing"))]
    assert state_of(*log).frames.top.successor is None
    done = state_of(*log, output("t"))
    assert (done.frames.top.agent, done.frames.top.successor, done.frames.handoffs) == (None, "billing", 1)
    after = state_of(*log, output("t"), chunks.StartStep()).frames.top
    assert (after.agent, after.successor, after.steps, after.steps_since_handoff) == ("billing", None, 2, 1)


def test_a_handoff_that_failed_or_was_denied_changes_no_agent() -> None:
    log = [START, step(called("t", "transfer_to_billing"))]
    failed = state_of(*log, chunks.ToolOutputError(tool_call_id="t", error_text="no"))
    denied = state_of(*log, chunks.ToolOutputDenied(tool_call_id="t"))
    assert failed.frames.top.successor is denied.frames.top.successor is None
    assert failed.frames.handoffs == denied.frames.handoffs == 0


def test_a_handoff_inside_a_frame_stays_inside() -> None:
    log = [START, TWO, step(called("t", "transfer_to_dig"), by=RESEARCH), output("t"), chunks.StartStep()]
    assert stack(state_of(*log)) == [(None, None, 1), ("c1", "dig", 2)]


# What a stored message is written again as: outputs stand right behind their calls there.


def test_a_finished_delegation_leaves_the_next_step_to_its_caller() -> None:
    """Live and restored: the caller's last step has made the call, whose output its model has not read."""
    asked, found = called("c1", "delegate_to_research", task=""), step(text("Found."), by=RESEARCH)
    for log in ([step(asked), found, output("c1")], [step(asked, output("c1")), found, found]):
        state = state_of(START, *log)
        assert stack(state) == [(None, None, 1)]
        assert (list(state.calls), state.open_calls) == (["c1"], [])


FINISHED_FIRST = [
    START,
    TWO,
    step(text("Looking."), called("t", "transfer_to_dig"), by=RESEARCH),
    output("t"),
    step(text("Found."), by=PartOrigin("dig", CallId("c1"))),
    output("c1", "Found."),
    step(called("x", "look"), by=SECOND),
]


@pytest.mark.parametrize("log", [NESTED, FINISHED_FIRST], ids=["nested", "one after the other"])
def test_a_restored_message_has_the_same_open_frames(log: list[Any]) -> None:
    live = state_of(*log)
    again = state_of(*unfold(live.message))
    assert stack(again) == stack(live)
    assert again.frames.top.agent == live.frames.top.agent
    assert again.all_open_calls == live.all_open_calls
    assert again.message == live.message


# What each agent sees.

MESSAGE: MessageDict = fold(
    event
    for entry in (
        [START],
        step(text("I ask."), called("c1", "delegate_to_research", task="find it")),
        step(
            chunks.ReasoningStart(id="t"),
            chunks.ReasoningDelta(id="t", delta="Hmm."),
            chunks.ReasoningEnd(id="t", provider_metadata={"openai": {"model": "m"}}),
            text("Looking."),
            called("x", "look"),
            by=RESEARCH,
        ),
        [output("x", "seen")],
        step(text("It is "), text("here."), by=RESEARCH),
        [output("c1", "It is here.")],
        step(text("It is there.")),
    )
    for event in entry
    if not isinstance(event, Mark)
)


def test_a_delegated_agents_text_is_no_text_of_the_message() -> None:
    assert [part["text"] for part in MESSAGE["parts"] if part["type"] == "text"] == ["I ask.", "It is there."]
    shown = [part["text"] for part in MESSAGE["parts"] if part["type"] == "reasoning"]
    assert shown == ["Hmm.", "Looking.", "It is ", "here."]
    reasoning = [part for part in MESSAGE["parts"] if part["type"] == "reasoning"]
    names = [part["providerMetadata"][ORIGIN_METADATA_KEY]["agent"] for part in reasoning]
    assert set(names) == {"research"}


def test_the_conversation_sees_the_call_and_its_output_and_nothing_in_between() -> None:
    parts = agent_stack.frame_view(MESSAGE, None)["parts"]
    kinds = ["step-start", "text", "tool-delegate_to_research", "step-start", "text"]
    assert [part["type"] for part in parts] == kinds
    assert parts[2]["output"] == "It is here."


def test_a_delegated_agent_sees_its_own_text_as_text() -> None:
    parts = agent_stack.frame_view(MESSAGE, RESEARCH.call)["parts"]
    kinds = ["step-start", "reasoning", "text", "tool-look", "step-start", "text", "text"]
    assert [part["type"] for part in parts] == kinds
    assert parts[1]["providerMetadata"]["openai"] == {"model": "m"}
    assert parts[2] == {"type": "text", "text": "Looking.", "state": "done"}
    assert parts[3]["output"] == "seen"


def test_the_output_of_a_delegation_is_the_text_of_its_last_step() -> None:
    assert agent_stack.delegation_output(MESSAGE, RESEARCH.call) == "It is here."


def test_provider_metadata_of_a_text_comes_back_with_it() -> None:
    metadata = {"openai": {"model": "m", "id": "i"}}
    events: list[Chunk] = [chunks.TextStart(id="t"), chunks.TextEnd(id="t", provider_metadata=metadata)]
    message = fold(agent_stack.with_origin(one, RESEARCH) for one in (chunks.StartStep(), *events))
    [_, part] = agent_stack.frame_view(message, RESEARCH.call)["parts"]
    assert part == {"type": "text", "text": "", "state": "done", "providerMetadata": metadata}


def test_text_and_reasoning_of_one_id_stay_apart() -> None:
    events = [chunks.ReasoningStart(id="t"), *text("a"), chunks.ReasoningDelta(id="t", delta="b")]
    message = fold(agent_stack.with_origin(one, RESEARCH) for one in events)
    assert [part["text"] for part in message["parts"]] == ["b", "a"]


def test_metadata_of_another_kind_has_no_origin() -> None:
    incomplete: dict[str, Any] = {ORIGIN_METADATA_KEY: {}}
    strange: list[Any] = [
        UNSET,
        {},
        incomplete,
        {ORIGIN_METADATA_KEY: {"agent": 1, "call": "c"}},
        {"openai": {}},
    ]
    for metadata in strange:
        assert agent_stack.origin_of(metadata) is None
    assert agent_stack.origin_of({ORIGIN_METADATA_KEY: {"agent": "a", "call": "c"}}) == PartOrigin(
        "a", CallId("c")
    )


def test_a_delegated_agent_gets_its_task_and_nothing_else() -> None:
    [_, waiting] = state_of(START, TWO, chunks.StartStep()).frames.stack
    assert waiting.call is not None
    assert agent_stack.task_message(waiting.call)["parts"] == [{"type": "text", "text": "find it"}]


# Who begins the next answer.

USER: MessageDict = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "hi"}]}


def answered(*log: Any, by: str = "support") -> MessageDict:
    return state_of(chunks.Start(message_id="m", message_metadata={"agent": by}), *log).message


TO_BILLING = answered(step(called("t", "transfer_to_billing")), output("t"), step(text("hi")))
REACHABLE = {"support", "billing", "dig"}


def test_the_next_answer_starts_with_the_agent_of_the_last_one() -> None:
    assert current_agent([], "support", REACHABLE) == "support"
    assert current_agent([USER, TO_BILLING, USER], "support", REACHABLE) == "billing"
    assert current_agent([USER, TO_BILLING, USER, answered(), USER], "support", REACHABLE) == "billing"
    back = answered(step(called("t", "transfer_to_support")), output("t"))
    assert current_agent([USER, TO_BILLING, USER, back, USER], "support", REACHABLE) == "support"


def test_a_handoff_that_failed_or_was_a_delegated_agents_does_not_change_the_next_answer() -> None:
    asked = answered(step(called("t", "transfer_to_billing")))
    inner = answered(TWO, step(called("t", "transfer_to_dig"), by=RESEARCH), output("t"))
    for message in (asked, inner):
        assert current_agent([USER, message, USER], "support", REACHABLE) == "support"


def test_another_agents_answers_and_removed_agents_do_not_change_the_next_answer() -> None:
    assert current_agent([USER, TO_BILLING, USER], "support", {"support"}) == "support"
    others = answered(step(text("hi")), by="sales")
    assert current_agent([USER, TO_BILLING, USER, others, USER], "support", REACHABLE) == "support"
