"""`RunStore`: the turns of a run: claim, approval requests, decisions, suspension, end."""

import itertools

import msgspec
import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Decision, Regenerate
from rejoin_protocol.errors import Conflict, Fenced, Invalid, NotFound
from rejoin_protocol.ids import ApprovalId, RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import AGENT, DEFAULT, Chat, text_of

pytest_plugins = ("tests.support.data.store_fixtures",)

# --------------------------------------------------------------------------------------------------- claim


async def test_every_claim_is_a_new_attempt(chat: Chat) -> None:
    run = await chat.send("one")
    first, second = await chat.claim(run), await chat.claim(run)
    assert (first.run.attempt, second.run.attempt, second.run.state) == (1, 2, State.RUNNING)
    assert await chat.store.find_run(DEFAULT, run.id) == second.run
    for write in (chat.end(first.run), chat.suspend(first.run), chat.ask(first.run)):
        with pytest.raises(Fenced):
            await write
    await chat.end(second.run)


async def test_a_claim_brings_what_is_needed_to_go_on(chat: Chat) -> None:
    await chat.complete("one", "first")
    run, approvals = await chat.wait_for_decision("two", 2)
    await chat.decide(approvals[0], approved=False, reason="because")
    decided = (await chat.decide(approvals[1])).run
    claim = await chat.claim(decided)
    assert (claim.run.turn, claim.run.attempt) == (1, 2)
    assert [text_of(message) for message in claim.history] == ["one", "first", "two"]
    assert claim.answer == chat.answer(run, "may I?")
    assert [(one.request.id, one.request.call, one.turn) for one in claim.approvals] == [
        (approvals[0], "call_0", 0),
        (approvals[1], "call_1", 0),
    ]
    assert [one.decision for one in claim.approvals] == [
        Decision(approvals[0], False, "because"),
        Decision(approvals[1], True),
    ]


async def test_a_first_claim_has_no_answer_and_no_approvals(chat: Chat) -> None:
    claim = await chat.claim(await chat.send("one"))
    assert (claim.answer, list(claim.approvals)) == (None, [])


async def test_a_new_run_begins_with_steps_that_were_kept(chat: Chat) -> None:
    """As if it went on from a suspension: its first claim has them as the answer so far."""
    await chat.complete("one", "first")
    kept = {"id": "msg_kept", "role": "assistant", "parts": [{"type": "text", "text": "half"}]}
    made = (await chat.admit(Regenerate(kept=kept), key="again")).run
    assert (made.turn, made.attempt, made.state, made.ready) == (1, 0, State.QUEUED, True)
    again = await chat.admit(Regenerate(kept=kept), key="again")
    assert (again.created, again.run) == (False, made)
    assert await chat.store.find_message(DEFAULT, chat.id, made.answer) is None  # its stream has all of it
    claim = await chat.claim(made)
    assert (claim.run.turn, claim.run.attempt, claim.answer) == (1, 1, kept)
    assert [text_of(message) for message in claim.history] == ["one"]
    assert list(claim.approvals) == []
    await chat.end(claim.run, "whole")
    found = await chat.store.find_message(DEFAULT, chat.id, made.answer)
    assert found is not None
    assert text_of(found.message) == "whole"


async def test_a_stale_request_claims_nothing(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one")
    stale = run.request
    assert await chat.store.claim(stale, "runner") is None
    decided = (await chat.decide(*approvals)).run
    assert await chat.store.claim(stale, "runner") is None
    claim = await chat.claim(decided)
    await chat.end(claim.run)
    assert await chat.store.claim(decided.request, "runner") is None


async def test_a_waiting_run_cannot_be_claimed(chat: Chat) -> None:
    await chat.send("one")
    assert await chat.store.claim((await chat.send("two")).request, "runner") is None


# ----------------------------------------------------------------------------------------- ask and decide


async def test_asking_again_changes_nothing(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run, 2)
    first = await chat.store.pending_approvals(DEFAULT, chat.id)
    await chat.decide(approvals[0])
    await chat.ask(run, 2)
    assert list(await chat.store.pending_approvals(DEFAULT, chat.id)) == list(first)[1:]


async def test_only_the_running_attempt_asks(chat: Chat) -> None:
    run, _ = await chat.wait_for_decision("one")
    with pytest.raises(Fenced):
        await chat.ask(run, 2)
    with pytest.raises(Fenced):
        await chat.store.request_approvals(RunId("run_none"), 1, [])


async def test_pending_questions_come_oldest_first(chat: Chat) -> None:
    _, first = await chat.wait_for_decision("one", 3)
    _, second = await chat.wait_for_decision("two", 2)
    assert [one.request.id for one in await chat.store.pending_approvals(DEFAULT, chat.id)] == first + second
    await chat.decide(first[1])
    pending = await chat.store.pending_approvals(DEFAULT, chat.id)
    assert [one.request.id for one in pending] == [first[0], first[2], *second]
    assert {one.decision for one in pending} == {None}


async def test_the_last_decision_queues_the_next_turn(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", 2)
    first = await chat.decide(approvals[0])
    assert (first.run.state, first.run.turn, first.turn) == (State.SUSPENDED, 0, 1)
    second = await chat.decide(approvals[1], approved=False)
    assert (second.run.id, second.run.state, second.run.ready) == (run.id, State.QUEUED, True)
    assert (second.run.turn, second.turn) == (1, 1)


async def test_what_is_answered_while_a_run_waits_is_found_with_its_run(chat: Chat) -> None:
    """Until the message is stored that has it: at the next suspension, or at the end."""

    async def answered() -> list[tuple[str, Decision | None]]:
        found = await chat.store.answered_calls(DEFAULT, chat.id)
        return [(one.run.answer, one.approval.decision) for one in found]

    run, approvals = await chat.wait_for_decision("one", 3)
    other, [second] = await chat.wait_for_decision("two")
    assert await answered() == []
    await chat.decide(approvals[2], approved=False)
    await chat.decide(approvals[0])
    denied = (run.answer, Decision(approvals[2], False))
    first = [(run.answer, Decision(approvals[0], True)), denied]
    assert await answered() == first
    decided = (await chat.decide(second)).run
    assert await answered() == [*first, (other.answer, Decision(second, True))]
    await chat.end((await chat.claim(decided)).run)
    assert await answered() == first
    claim = await chat.claim((await chat.decide(approvals[1])).run)
    [asked] = await chat.ask(claim.run)
    await chat.suspend(claim.run)
    again = await chat.claim((await chat.decide(asked)).run)
    await chat.ask(again.run)
    await chat.suspend(again.run)
    assert await answered() == [(run.answer, Decision(asked, True))]


async def test_decisions_come_together(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one", 3)
    assert (await chat.decide(*approvals)).run.state is State.QUEUED


async def test_the_same_decision_again_changes_nothing(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one")
    first = await chat.decide(*approvals, reason="first")
    assert await chat.decide(*approvals, reason="second") == first
    claim = await chat.claim(first.run)
    assert claim.approvals[0].decision == Decision(approvals[0], True, "first")
    later = await chat.ask(claim.run)
    await chat.suspend(claim.run)
    again = await chat.decide(*approvals)
    assert (again.run.state, again.run.turn, again.turn) == (State.SUSPENDED, 1, 1)
    assert (await chat.decide(*later)).turn == 2


async def test_another_decision_is_a_conflict_and_none_is_stored(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", 2)
    await chat.decide(approvals[1])
    with pytest.raises(Conflict):
        await chat.store.decide(
            DEFAULT, chat.id, [Decision(approvals[0], True), Decision(approvals[1], False)]
        )
    with pytest.raises(Conflict):
        await chat.store.decide(
            DEFAULT, chat.id, [Decision(approvals[0], True), Decision(approvals[0], False)]
        )
    assert [one.request.id for one in await chat.store.pending_approvals(DEFAULT, chat.id)] == [approvals[0]]
    assert await chat.state(run) is State.SUSPENDED


async def test_unknown_approvals_and_those_of_other_sessions_are_not_found(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one")
    other = Chat(chat.store)
    await other.send("two")
    for attempt in (
        other.decide(*approvals),
        chat.decide(*approvals, ApprovalId("apr_none")),
        Chat(chat.store).decide(ApprovalId("apr_none")),
    ):
        with pytest.raises(NotFound):
            await attempt
    assert len(await chat.store.pending_approvals(DEFAULT, chat.id)) == 1


async def test_decisions_of_two_runs_or_of_none_are_invalid(chat: Chat) -> None:
    _, first = await chat.wait_for_decision("one")
    _, second = await chat.wait_for_decision("two")
    for approvals in (first + second, []):
        with pytest.raises(Invalid):
            await chat.decide(*approvals)
    assert len(await chat.store.pending_approvals(DEFAULT, chat.id)) == 2


async def test_a_running_run_takes_decisions_without_a_new_turn(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    decided = await chat.decide(*await chat.ask(run))
    assert (decided.run, decided.turn) == (run, 1)


async def test_a_decided_run_waits_for_the_busy_one_but_goes_before_later_ones(chat: Chat) -> None:
    decided, approvals = await chat.wait_for_decision("one")
    busy = await chat.claim(await chat.send("two"))
    later = await chat.send("three")
    assert not (await chat.decide(*approvals)).run.ready
    request = await chat.end(busy.run)
    assert request == RunRequest(AGENT, decided.id, 1)
    request = await chat.end((await chat.claim(request)).run)
    assert request == later.request


# ---------------------------------------------------------------------------------------- suspend and end


async def test_a_suspension_promotes_the_next_run(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    following = await chat.send("two")
    await chat.ask(run)
    assert await chat.suspend(run) == following.request
    assert await chat.state(run) is State.SUSPENDED
    assert await chat.suspend(run) == following.request
    await chat.claim(following)
    assert await chat.suspend(run) is None


async def test_a_suspension_that_finds_all_decided_goes_on_in_the_next_turn(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    waiting = await chat.send("two")
    await chat.decide(*await chat.ask(run))
    request = await chat.suspend(run, "so far")
    assert request == RunRequest(AGENT, run.id, 1)
    assert await chat.suspend(run, "so far") == request
    found = await chat.store.find_run(DEFAULT, run.id)
    assert found is not None
    assert (found.state, found.ready, found.turn) == (State.RUNNING, True, 1)
    assert await chat.store.claim(run.request, "runner") is None
    claim = await chat.claim(request)
    assert (claim.run.attempt, claim.answer) == (2, chat.answer(run, "so far"))
    assert await chat.end(claim.run) == waiting.request


async def test_a_suspension_without_a_question_is_asked_for_again(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    assert await chat.suspend(run) == run.request
    assert await chat.state(run) is State.RUNNING


async def test_a_suspension_is_done_also_if_it_is_decided_before_it_is_repeated(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one")
    decided = (await chat.decide(*approvals)).run
    assert await chat.suspend(run) == decided.request
    assert await chat.store.find_run(DEFAULT, run.id) == decided


async def test_ending_promotes_the_earliest_waiting_run(chat: Chat) -> None:
    runs = [await chat.send(str(n)) for n in range(4)]
    for run, following in itertools.pairwise(runs):
        assert await chat.end((await chat.claim(run)).run) == following.request
    assert await chat.end((await chat.claim(runs[-1])).run) is None


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED])
async def test_ending_twice_is_ending_once(chat: Chat, state: State) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    following = await chat.send("two")
    for answer in ("first", "second"):
        request = await chat.store.end(run.id, run.attempt, state, chat.answer(run, answer), answer, answer)
        assert request == following.request
    found = await chat.store.find_run(DEFAULT, run.id)
    assert found is not None
    assert (found.state, found.error) == (state, "first")
    assert found.error_code == ("first" if state is State.FAILED else None)  # only a failure has a code
    assert await chat.texts() == ["one", "first", "two"]
    await chat.claim(following)
    assert await chat.end(run, state=state) is None


async def test_an_ended_run_does_not_end_otherwise(chat: Chat) -> None:
    run = await chat.complete("one")
    for write in (chat.end(run, state=State.FAILED), chat.suspend(run), chat.ask(run)):
        with pytest.raises(Fenced):
            await write
    assert await chat.state(run) is State.COMPLETED


async def test_a_suspended_run_is_not_ended_without_a_claim(chat: Chat) -> None:
    run, _ = await chat.wait_for_decision("one")
    with pytest.raises(Fenced):
        await chat.end(run)


async def test_an_unknown_run_is_somebody_elses(store: RunStore) -> None:
    with pytest.raises(Fenced):
        await store.end(RunId("run_none"), 1, State.COMPLETED, None, None)
    with pytest.raises(Fenced):
        await store.suspend(RunId("run_none"), 1, {})


async def test_a_run_ends_in_a_terminal_state_only(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    for state in set(State) - {State.COMPLETED, State.FAILED, State.CANCELLED}:
        with pytest.raises(ValueError, match="not a terminal state"):
            await chat.end(run, state=state)


async def test_an_end_without_an_answer_keeps_the_one_of_the_suspension(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one")
    run = (await chat.claim((await chat.decide(*approvals)).run)).run
    await chat.store.end(run.id, run.attempt, State.CANCELLED, None, None)
    assert await chat.texts() == ["one", "may I?"]


async def test_an_end_closes_the_open_questions(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run, 2)
    await chat.decide(approvals[0])
    await chat.end(run, state=State.CANCELLED)
    assert list(await chat.store.pending_approvals(DEFAULT, chat.id)) == []
    with pytest.raises(Conflict):
        await chat.decide(approvals[1])
    assert (await chat.decide(approvals[0])).run.state is State.CANCELLED


# --------------------------------------------------------------------------------------------- the sweep


async def test_a_ready_run_is_stranded_until_it_is_claimed(chat: Chat) -> None:
    async def stranded() -> list[RunRequest]:
        return [one for one in await chat.store.recover_stranded(0) if one.run in {run.id, waiting.id}]

    run, waiting = await chat.send("one"), await chat.send("two")
    assert await stranded() == [run.request]
    assert run.request not in await chat.store.recover_stranded(3600)
    claimed = (await chat.claim(run)).run
    assert await stranded() == []
    await chat.decide(*await chat.ask(claimed))
    request = await chat.suspend(claimed)
    assert request is not None
    assert await stranded() == [request]
    claimed = (await chat.claim(request)).run
    assert await stranded() == []
    await chat.end(claimed)
    assert await stranded() == [waiting.request]
    await chat.end((await chat.claim(waiting)).run)
    assert await stranded() == []


async def test_the_store_answers(store: RunStore) -> None:
    await store.ping()


async def test_a_running_run_is_asked_for_again_now_and_then(chat: Chat) -> None:
    """Its runner may have died with the broker that knew of it."""
    run = await chat.send("hello")
    await chat.claim(run)
    again = await chat.store.recover_stranded(3600, republish_interval_s=0)
    assert run.request in again
    assert run.request not in await chat.store.recover_stranded(3600, republish_interval_s=60)


async def test_every_request_of_a_run_has_the_trace_in_which_it_was_admitted(chat: Chat) -> None:
    """Over a decision, a run before it, and a lost request."""
    traces = [f"00-{letter * 32}-{letter * 16}-01" for letter in "ab"]
    first, waiting = [(await chat.submit(trace, trace=trace)).run for trace in traces]
    stranded = {one.run: one.trace for one in await chat.store.recover_stranded(0)}
    assert stranded[first.id] == traces[0]
    run = (await chat.claim(first)).run
    assert run.trace == traces[0]
    decided = (await chat.decide(*await chat.ask(run))).run
    request = await chat.suspend(run)
    assert request is not None
    assert (request.turn, request.trace) == (1, traces[0])
    assert decided.request.trace == traces[0]
    following = await chat.end((await chat.claim(request)).run)
    assert following == msgspec.structs.replace(waiting.request, trace=traces[1])
    assert (await chat.submit("c")).run.trace is None
