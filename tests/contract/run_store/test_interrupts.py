"""`RunStore`: runs are interrupted by their user, or by a later message."""

import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Admission, Interrupted, Regenerate, Submit, UserMessage, WhenBusy
from rejoin_protocol.errors import Conflict, NotFound
from rejoin_protocol.ids import MessageId, RunId, SessionId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import AGENT, DEFAULT, OTHER, Chat, fresh, text_of, user

pytest_plugins = ("tests.support.data.store_fixtures",)

# ---------------------------------------------------------------------------------------------- interrupt


async def test_a_running_run_is_flagged_and_goes_on_until_its_runner_ends_it(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    interrupted = await chat.interrupt()
    assert interrupted.interrupted
    assert interrupted.run == await chat.found(run)
    assert (interrupted.run.state, interrupted.run.attempt, interrupted.run.interrupted) == (
        State.RUNNING,
        run.attempt,
        True,
    )
    await chat.end(run, "so f", State.CANCELLED)
    assert await chat.texts() == ["one", "so f"]


async def test_whoever_takes_an_interrupted_run_over_knows_it(chat: Chat) -> None:
    run = await chat.send("one")
    assert not (await chat.claim(run)).run.interrupted
    await chat.interrupt()
    assert (await chat.claim(run)).run.interrupted


async def test_a_queued_run_is_flagged_for_the_runner_that_will_claim_it(chat: Chat) -> None:
    run = await chat.send("one")
    interrupted = await chat.interrupt()
    assert interrupted.run is not None
    assert (interrupted.run.state, interrupted.run.ready, interrupted.run.request) == (
        State.QUEUED,
        True,
        run.request,
    )
    assert (await chat.claim(run)).run.interrupted


async def test_a_run_that_waits_is_ended_when_its_turn_comes(chat: Chat) -> None:
    first, second, third = [await chat.send(text) for text in ("one", "two", "three")]
    interrupted = await chat.interrupt(second)
    assert interrupted.run is not None
    assert (interrupted.run.state, interrupted.run.ready) == (State.QUEUED, False)
    assert not (await chat.found(first)).interrupted
    assert await chat.end((await chat.claim(first)).run) == second.request
    claimed = (await chat.claim(second)).run
    assert claimed.interrupted
    assert await chat.end(claimed, state=State.CANCELLED) == third.request
    assert not (await chat.claim(third)).run.interrupted


async def test_a_suspended_run_goes_on_to_its_end_and_its_questions_go(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", 2)
    await chat.decide(approvals[0])
    interrupted = await chat.interrupt()
    assert interrupted.run is not None
    assert (interrupted.run.state, interrupted.run.ready, interrupted.run.turn) == (State.QUEUED, True, 1)
    assert await chat.pending() == []
    claim = await chat.claim(interrupted.run.request)
    assert claim.run.interrupted
    assert claim.answer == chat.answer(run, "may I?")
    assert [one.decision is None for one in claim.approvals] == [False, True]
    await chat.end(claim.run, state=State.CANCELLED)


async def test_a_suspended_run_behind_a_busy_one_is_ended_after_it(chat: Chat) -> None:
    suspended, _ = await chat.wait_for_decision("one")
    busy = (await chat.claim(await chat.send("two"))).run
    later = await chat.send("three")
    interrupted = await chat.interrupt(suspended)
    assert interrupted.run is not None
    assert (interrupted.run.state, interrupted.run.ready) == (State.QUEUED, False)
    assert await chat.end(busy) == RunRequest(AGENT, suspended.id, 1)
    assert await chat.end((await chat.claim(interrupted.run)).run) == later.request


@pytest.mark.feature("F60", "F96")
async def test_an_interrupt_of_the_session_rejects_every_question_in_it(chat: Chat) -> None:
    """The running run is ended first, then the suspended ones in their order, then the next one begins."""
    old, _ = await chat.wait_for_decision("one")
    new, _ = await chat.wait_for_decision("two")
    over = await chat.complete("three")
    running = (await chat.claim(await chat.send("four"))).run
    later = await chat.send("five")
    interrupted = await chat.interrupt()
    assert interrupted == Interrupted(await chat.found(running), interrupted=True)
    assert await chat.pending() == []
    request = await chat.end(running, state=State.CANCELLED)
    ended = []
    while request is not None and request.run != later.id:
        claim = await chat.claim(request)
        ended.append((claim.run.id, claim.run.interrupted))
        request = await chat.end(claim.run, state=State.CANCELLED)
    assert ended == [(old.id, True), (new.id, True)]
    assert not (await chat.claim(later)).run.interrupted
    assert await chat.state(over) is State.COMPLETED


async def test_nothing_to_interrupt_is_no_error(chat: Chat) -> None:
    await chat.complete("one")
    assert await chat.interrupt() == Interrupted(None, interrupted=False)


@pytest.mark.feature("F60", "F96")
async def test_an_interrupt_of_one_run_leaves_the_questions_of_others(chat: Chat) -> None:
    _, approvals = await chat.wait_for_decision("one")
    running = (await chat.claim(await chat.send("two"))).run
    assert (await chat.interrupt(running)).interrupted
    assert await chat.pending() == approvals


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELLED])
async def test_a_run_that_is_over_is_left_alone(chat: Chat, state: State) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    await chat.end(run, state=state)
    following = await chat.send("two")
    interrupted = await chat.interrupt(run)
    assert interrupted == Interrupted(await chat.found(run), interrupted=False)
    assert interrupted.run is not None
    assert not interrupted.run.interrupted
    assert not (await chat.found(following)).interrupted


async def test_interrupting_again_is_the_same_answer(chat: Chat) -> None:
    run, _ = await chat.wait_for_decision("one")
    first = await chat.interrupt(run)
    assert [await chat.interrupt(run), await chat.interrupt()] == [first, first]
    assert first.run is not None
    claimed = (await chat.claim(first.run)).run
    assert await chat.interrupt(run) == Interrupted(claimed, interrupted=True)


async def test_what_is_not_in_the_session_is_not_found(chat: Chat) -> None:
    run, elsewhere = await chat.send("one"), await Chat(chat.store).send("two")
    for attempt in (
        chat.interrupt(elsewhere),
        Chat(chat.store).interrupt(run),
        Chat(chat.store, OTHER, chat.id).interrupt(run),
    ):
        with pytest.raises(NotFound):
            await attempt
    for stranger in (Chat(chat.store), Chat(chat.store, OTHER, chat.id)):
        assert await stranger.interrupt() == Interrupted(None, interrupted=False, known=False)
    assert not (await chat.found(run)).interrupted
    assert not (await chat.found(elsewhere)).interrupted


async def test_an_interrupted_run_is_not_decided_any_more(chat: Chat) -> None:
    run, approvals = await chat.wait_for_decision("one", 2)
    await chat.decide(approvals[0], approved=False)
    await chat.interrupt()
    for approved in (True, False):
        with pytest.raises(Conflict, match="already"):
            await chat.decide(approvals[1], approved=approved)
    assert (await chat.decide(approvals[0], approved=False)).run.state is State.QUEUED
    assert (await chat.found(run)).turn == 1


async def test_an_interrupted_run_asks_nobody(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    before = await chat.ask(run)
    await chat.interrupt()
    after = await chat.ask(run, first=1)
    assert await chat.pending() == []
    for approval in before + after:
        with pytest.raises(Conflict):
            await chat.decide(approval)


async def test_an_interrupted_run_does_not_suspend(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    waiting = await chat.send("two")
    await chat.ask(run)
    await chat.interrupt()
    request = await chat.suspend(run, "so far")
    assert request == RunRequest(AGENT, run.id, 1) == await chat.suspend(run, "so far")
    claim = await chat.claim(request)
    assert (claim.run.state, claim.run.interrupted) == (State.RUNNING, True)
    assert claim.answer == chat.answer(run, "so far")
    assert await chat.end(claim.run, state=State.CANCELLED) == waiting.request


async def test_an_interrupted_run_is_swept_until_it_is_claimed(chat: Chat) -> None:
    async def stranded() -> list[RunRequest]:
        return [one for one in await chat.store.recover_stranded(0) if one.run == run.id]

    run, _ = await chat.wait_for_decision("one")
    interrupted = await chat.interrupt()
    assert interrupted.run is not None
    assert await stranded() == [interrupted.run.request]
    await chat.claim(interrupted.run)
    assert await stranded() == []


# ------------------------------------------------------------------------------------------- busy sessions


async def test_a_busy_session_rejects_and_stores_nothing(chat: Chat) -> None:
    run = await chat.send("one", "m")
    for state in (State.QUEUED, State.RUNNING):
        assert await chat.state(run) is state
        for attempt in (
            chat.submit("two", when_busy=WhenBusy.REJECT),
            chat.submit("one!", "m", edit=True, when_busy=WhenBusy.REJECT),
            chat.admit(Regenerate(), WhenBusy.REJECT),
        ):
            with pytest.raises(Conflict, match="busy"):
                await attempt
        await chat.claim(run)
    assert await chat.texts() == ["one"]
    assert not (await chat.submit("one", "m", when_busy=WhenBusy.REJECT)).created


@pytest.mark.feature("F96")
async def test_a_question_waits_beside_messages_that_do_not_interrupt(chat: Chat) -> None:
    suspended, approvals = await chat.wait_for_decision("one")
    for when_busy in (WhenBusy.ENQUEUE, WhenBusy.REJECT):
        admitted = await chat.submit("two", when_busy=when_busy)
        assert (admitted.run.ready, admitted.interrupted) == (True, None)
        await chat.end((await chat.claim(admitted.run)).run)
    assert await chat.state(suspended) is State.SUSPENDED
    assert await chat.pending() == approvals


@pytest.mark.feature("F75", "F96")
async def test_a_message_that_interrupts_rejects_the_questions_before_it_is_answered(chat: Chat) -> None:
    suspended, approvals = await chat.wait_for_decision("one", 2)
    other, _ = await chat.wait_for_decision("two")
    admitted = await chat.submit("three", when_busy=WhenBusy.INTERRUPT)
    assert admitted.interrupted == await chat.found(suspended)
    assert (admitted.interrupted.ready, admitted.run.ready, admitted.run.interrupted) == (True, False, False)
    assert await chat.pending() == []
    with pytest.raises(Conflict, match="already"):
        await chat.decide(approvals[0])
    claim = await chat.claim(admitted.interrupted)
    second = await chat.end(claim.run, "rejected", State.CANCELLED)
    assert second is not None
    assert second.run == other.id
    assert await chat.end((await chat.claim(second)).run, state=State.CANCELLED) == admitted.run.request
    claim = await chat.claim(admitted.run)
    assert [text_of(message) for message in claim.history] == ["one", "rejected", "two", "done", "three"]
    assert claim.waiting == []


@pytest.mark.feature("F97")
async def test_a_run_that_is_interrupted_already_is_in_nobody_s_way(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one", "m"))).run
    await chat.interrupt()
    rejecting = await chat.submit("two", when_busy=WhenBusy.REJECT)
    assert not rejecting.run.ready
    with pytest.raises(Conflict, match="busy"):
        await chat.regenerate(run.answer)
    await chat.interrupt(rejecting.run)
    again = await chat.regenerate(run.answer)
    edited = await chat.interrupt(again)
    assert edited.run == await chat.found(again)
    final = await chat.submit("one!", "m", edit=True)
    assert await chat.texts() == ["one!"]
    request = await chat.end(run, "too late", State.CANCELLED)
    while request is not None and request.run != final.run.id:
        request = await chat.end((await chat.claim(request)).run, "too late", State.CANCELLED)
    assert request == final.run.request
    assert await chat.texts() == ["one!"]


async def test_a_claim_says_which_earlier_answers_are_not_over(chat: Chat) -> None:
    over = await chat.complete("one")
    suspended, _ = await chat.wait_for_decision("two")
    claim = await chat.claim(await chat.send("three"))
    assert claim.waiting == [suspended.answer]
    assert over.answer in [message["id"] for message in claim.history]


async def test_a_new_session_is_not_busy(store: RunStore) -> None:
    for when_busy in WhenBusy:
        assert (await Chat(store).submit("one", when_busy=when_busy)).run.ready


async def test_a_message_that_interrupts_waits_for_the_end_of_what_it_stops(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    approvals = await chat.ask(run)
    admitted = await chat.submit("two", when_busy=WhenBusy.INTERRUPT)
    assert admitted.interrupted == await chat.found(run)
    assert (admitted.run.ready, admitted.run.interrupted, admitted.created) == (False, False, True)
    assert (await chat.found(run)).interrupted
    with pytest.raises(Conflict):
        await chat.decide(*approvals)
    assert await chat.end(run, "par", State.CANCELLED) == admitted.run.request
    claim = await chat.claim(admitted.run)
    assert [text_of(message) for message in claim.history] == ["one", "par", "two"]


async def test_only_the_run_whose_turn_it_is_is_interrupted(chat: Chat) -> None:
    first, second = await chat.send("one"), await chat.send("two")
    admitted = await chat.submit("three", when_busy=WhenBusy.INTERRUPT)
    assert admitted.interrupted == await chat.found(first)
    assert not (await chat.found(second)).interrupted
    again = await chat.submit("four", when_busy=WhenBusy.INTERRUPT)
    assert again.interrupted == admitted.interrupted


async def test_an_interrupting_admission_is_told_again_whom_it_stopped(chat: Chat) -> None:
    """Its answer may have been lost."""
    for ask in (
        Submit(UserMessage(user("two"), b"2")),
        Regenerate(),
        Submit(UserMessage(user("three"), b"3")),
    ):
        run = (await chat.claim(await chat.send("one"))).run
        admission = Admission(
            DEFAULT, chat.id, AGENT, RunId(fresh("run")), MessageId(fresh("msg")), ask, WhenBusy.INTERRUPT
        )
        first = await chat.store.admit(admission)
        assert first.created
        assert first.interrupted == await chat.found(run)
        assert await chat.store.admit(admission) == first
        await chat.end(run)
        await chat.end((await chat.claim(first.run)).run)


async def test_attaching_interrupts_nothing(chat: Chat) -> None:
    run = await chat.send("one", "m")
    admitted = await chat.submit("one", "m", when_busy=WhenBusy.INTERRUPT)
    assert (admitted.run, admitted.created, admitted.interrupted) == (run, False, None)
    assert not (await chat.found(run)).interrupted


# --------------------------------------------------------------- edits and regenerations that interrupt


async def test_a_regeneration_that_interrupts_drops_the_answer_that_is_being_written(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    admitted = await chat.admit(Regenerate(run.answer), WhenBusy.INTERRUPT)
    assert admitted.interrupted == await chat.found(run)
    assert not admitted.run.ready
    assert await chat.texts() == ["one"]
    assert await chat.end(run, "too late", State.CANCELLED) == admitted.run.request
    assert await chat.texts() == ["one"]
    claim = await chat.claim(admitted.run)
    assert [text_of(message) for message in claim.history] == ["one"]
    await chat.end(claim.run, "again")
    assert await chat.texts() == ["one", "again"]


async def test_an_edit_that_interrupts_drops_what_is_behind_it(chat: Chat) -> None:
    await chat.complete("one", "first")
    run = (await chat.claim(await chat.send("two", "m"))).run
    admitted = await chat.submit("two!", "m", edit=True, when_busy=WhenBusy.INTERRUPT)
    assert admitted.interrupted == await chat.found(run)
    assert await chat.texts() == ["one", "first", "two!"]
    await chat.end(run, "too late", State.CANCELLED)
    assert await chat.texts() == ["one", "first", "two!"]
    claim = await chat.claim(admitted.run)
    assert [text_of(message) for message in claim.history] == ["one", "first", "two!"]


async def test_runs_that_wait_to_answer_dropped_messages_are_ended_in_their_turn(chat: Chat) -> None:
    runs = [await chat.send(text, text) for text in ("one", "two", "three")]
    admitted = await chat.submit("two!", "two", edit=True, when_busy=WhenBusy.INTERRUPT)
    assert [(await chat.found(run)).interrupted for run in runs] == [True, True, True]
    request: RunRequest | None = runs[0].request
    served = []
    while request is not None:
        claim = await chat.claim(request)
        served.append((claim.run.id, claim.run.interrupted))
        request = await chat.end(claim.run, request.run)
    assert served == [*((run.id, True) for run in runs), (admitted.run.id, False)]
    assert await chat.texts() == ["one", runs[0].id, "two!", admitted.run.id]


async def test_a_run_before_the_dropped_messages_keeps_its_answer(chat: Chat) -> None:
    resumed, approvals = await chat.wait_for_decision("one")
    await chat.complete("two", "second")
    running = (await chat.claim((await chat.decide(*approvals)).run)).run
    admitted = await chat.admit(Regenerate(), WhenBusy.INTERRUPT)
    assert admitted.interrupted == await chat.found(resumed)
    assert await chat.end(running, "first") == admitted.run.request
    assert await chat.texts() == ["one", "first", "two"]


async def test_an_interrupted_run_that_lost_its_answer_stores_none_when_it_suspends(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    await chat.ask(run)
    admitted = await chat.admit(Regenerate(), WhenBusy.INTERRUPT)
    request = await chat.suspend(run)
    assert request is not None
    claim = await chat.claim(request)
    assert (claim.run.interrupted, claim.answer) == (True, None)
    assert await chat.end(claim.run, state=State.CANCELLED) == admitted.run.request
    assert await chat.texts() == ["one"]


async def test_a_late_answer_does_not_replace_a_message_that_took_its_id(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    await chat.admit(Regenerate(), WhenBusy.INTERRUPT)
    await chat.send("mine", run.answer)
    assert (await chat.claim(run)).answer is None
    await chat.end((await chat.claim(run)).run, "too late", State.CANCELLED)
    assert await chat.texts() == ["one", "mine"]


async def test_a_suspended_run_among_the_dropped_is_cancelled_as_ever(chat: Chat) -> None:
    suspended, approvals = await chat.wait_for_decision("one")
    run = (await chat.claim(await chat.send("two"))).run
    await chat.admit(Regenerate(suspended.answer), WhenBusy.INTERRUPT)
    assert await chat.state(suspended) is State.CANCELLED
    assert (await chat.found(run)).interrupted
    with pytest.raises(Conflict):
        await chat.decide(*approvals)


async def test_nothing_to_regenerate_interrupts_nothing(chat: Chat) -> None:
    run = await chat.send("one")
    with pytest.raises(NotFound):
        await chat.admit(Regenerate(MessageId("missing")), WhenBusy.INTERRUPT)
    with pytest.raises(Conflict, match="not the user's"):
        await chat.submit("forged", run.answer, edit=True, when_busy=WhenBusy.INTERRUPT)
    assert not (await chat.found(run)).interrupted
    assert await chat.store.history(DEFAULT, SessionId("none")) is None
