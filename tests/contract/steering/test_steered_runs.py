"""`RunStore`: a message steers the run that works, and is in its answer or the next turn, not in both."""

from typing import Any

import pytest

from rejoin_adapters.store_types import Regenerate, Run, WhenBusy
from rejoin_protocol.errors import Busy, Conflict, Fenced, Limited, NotFound
from rejoin_protocol.events.fold import MessageDict
from rejoin_protocol.ids import MessageId, RunId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.limits import STEERING_MAX
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import OTHER, Chat, fresh, text_of

pytest_plugins = ("tests.support.data.store_fixtures",)


async def steer(chat: Chat, text: str, id: str | None = None, **extra: Any) -> Run:
    return (await chat.submit(text, id, when_busy=WhenBusy.STEER, **extra)).run


async def waiting(chat: Chat, run: Run, *logged: Run) -> list[str]:
    """What the runner finds before a step."""
    ids = [MessageId(one.user_message or "") for one in logged]
    return [text_of(one) for one in await chat.store.find_steering(run.id, run.attempt, ids)]


def steered_answer(chat: Chat, run: Run, text: str, *logged: Run) -> MessageDict:
    answer = chat.answer(run, text)
    parts: list[Any] = [{"type": "steering-message", "id": one.user_message, "parts": []} for one in logged]
    return answer | {"parts": [*answer["parts"], *parts]}


async def finish(chat: Chat, run: Run, *logged: Run, state: State = State.COMPLETED) -> RunRequest | None:
    answer = steered_answer(chat, run, "done", *logged)
    return await chat.store.end(run.id, run.attempt, state, answer, None)


@pytest.fixture
async def running(chat: Chat) -> Run:
    """A session whose run works."""
    return (await chat.claim(await chat.send("one"))).run


# -------------------------------------------------------------------------------------------- exactly once


@pytest.mark.feature("F106")
async def test_a_message_that_the_log_has_is_a_part_of_the_answer_and_no_turn(
    chat: Chat, running: Run
) -> None:
    steering = await steer(chat, "two")
    assert (steering.steers, steering.ready, steering.state) == (running.id, False, State.QUEUED)
    assert await waiting(chat, running) == ["two"]
    assert await waiting(chat, running, steering) == []
    assert await finish(chat, running, steering) is None
    assert await chat.texts() == ["one", "done"]
    assert await chat.store.find_run(chat.owner, steering.id) is None
    history = await chat.store.history(chat.owner, chat.id)
    assert history is not None
    assert (history.active_run, history.steering) == (None, [])


async def test_a_message_that_no_step_has_read_is_the_next_turn(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two")
    assert await waiting(chat, running) == ["two"]
    assert await finish(chat, running) == steering.request
    assert await chat.texts() == ["one", "done", "two"]
    claim = await chat.claim(steering)
    assert [text_of(message) for message in claim.history] == ["one", "done", "two"]
    assert (claim.run.steers, claim.steering) == (None, [])
    await chat.end(claim.run, "answered")
    assert await chat.texts() == ["one", "done", "two", "answered"]


async def test_the_end_sorts_what_is_read_from_what_is_not(chat: Chat, running: Run) -> None:
    two, three, four = [await steer(chat, text) for text in ("two", "three", "four")]
    assert await waiting(chat, running, two) == ["three", "four"]
    assert await finish(chat, running, two, three) == four.request
    assert await chat.texts() == ["one", "done", "four"]


async def test_a_run_that_died_before_the_store_knew_what_it_had_read(chat: Chat, running: Run) -> None:
    """Only its log and its answer say it."""
    steering = await steer(chat, "two")
    claim = await chat.claim(running)
    assert [text_of(message) for message in claim.steering] == ["two"]
    await finish(chat, claim.run, steering)
    assert await chat.texts() == ["one", "done"]


async def test_a_log_that_lost_its_tail_gets_the_message_again(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two")
    assert await waiting(chat, running, steering) == []
    claim = await chat.claim(running)
    assert [text_of(message) for message in claim.steering] == ["two"]
    assert await waiting(chat, claim.run) == ["two"]
    assert await finish(chat, claim.run) == steering.request


async def test_the_end_may_be_stored_twice(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two")
    await finish(chat, running, steering)
    await finish(chat, running, steering)
    assert await chat.texts() == ["one", "done"]


async def test_an_earlier_attempt_neither_reads_nor_ends_anything(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two")
    newer = (await chat.claim(running)).run
    with pytest.raises(Fenced):
        await waiting(chat, running, steering)
    with pytest.raises(Fenced):
        await finish(chat, running, steering)
    assert await waiting(chat, newer) == ["two"]


async def test_many_messages_keep_their_order(chat: Chat, running: Run) -> None:
    texts = [str(number) for number in range(5)]
    for text in texts:
        await steer(chat, text)
    assert await waiting(chat, running) == texts


# ------------------------------------------------------------------------------------ when nothing works


async def test_without_a_run_that_works_it_is_a_message_as_any(chat: Chat) -> None:
    run = await steer(chat, "one")
    assert (run.steers, run.ready) == (None, True)
    await chat.end((await chat.claim(run)).run)
    assert (await steer(chat, "two")).steers is None
    assert await chat.texts() == ["one", "done", "two"]


async def test_a_queued_run_is_steered_before_it_begins(chat: Chat) -> None:
    queued = await chat.send("one")
    steering = await steer(chat, "two")
    assert steering.steers == queued.id
    assert [text_of(message) for message in (await chat.claim(queued)).steering] == ["two"]


async def test_an_interrupted_run_is_not_steered(chat: Chat, running: Run) -> None:
    await chat.interrupt()
    assert (await steer(chat, "two")).steers is None
    await chat.end(running, state=State.CANCELLED)
    assert await chat.texts() == ["one", "done", "two"]


async def test_a_suspended_run_is_not_steered(chat: Chat) -> None:
    await chat.wait_for_decision("one")
    run = await steer(chat, "two")
    assert (run.steers, run.ready) == (None, True)


async def test_suspension_makes_what_waits_the_next_turn(chat: Chat, running: Run) -> None:
    two, three = [await steer(chat, text) for text in ("two", "three")]
    await chat.ask(running)
    answer = steered_answer(chat, running, "may I?", two)
    assert await chat.store.suspend(running.id, running.attempt, answer) == three.request
    assert await chat.texts() == ["one", "may I?", "three"]


async def test_a_run_that_continues_at_once_is_still_steered(chat: Chat, running: Run) -> None:
    await steer(chat, "two")
    await chat.decide(*await chat.ask(running))
    await chat.suspend(running)
    found = await chat.found(running)
    assert (found.state, found.turn) == (State.RUNNING, 1)
    claim = await chat.claim(found)
    assert [text_of(message) for message in claim.steering] == ["two"]


async def test_an_interrupted_run_leaves_the_message_for_the_next_turn(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two")
    await chat.interrupt()
    assert await finish(chat, running, state=State.CANCELLED) == steering.request


async def test_the_order_of_acceptance_holds_for_what_was_not_read(chat: Chat, running: Run) -> None:
    queued, steering = await chat.send("two"), await steer(chat, "three")
    assert steering.steers == running.id
    assert await finish(chat, running) == queued.request
    assert await chat.end((await chat.claim(queued)).run) == steering.request


# ------------------------------------------------------------------------------------------- what others see


async def test_what_waits_is_no_message_of_the_history_yet(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two")
    history = await chat.store.history(chat.owner, chat.id)
    assert history is not None
    assert await chat.texts() == ["one"]
    assert [text_of(message) for message in history.steering] == ["two"]
    assert history.active_run is not None
    assert history.active_run.id == running.id
    await waiting(chat, running, steering)
    read = await chat.store.history(chat.owner, chat.id)
    assert read is not None
    assert read.steering == []


async def test_the_same_message_again_is_the_same_request(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two", "m-two")
    assert await steer(chat, "two", "m-two") == steering
    assert await waiting(chat, running) == ["two"]
    await waiting(chat, running, steering)
    assert (await steer(chat, "two", "m-two")).id == running.id
    await finish(chat, running, steering)
    again = await chat.submit("two", "m-two", when_busy=WhenBusy.STEER)
    assert (again.run.id, again.created) == (running.id, False)
    assert await chat.texts() == ["one", "done"]


async def test_the_id_of_a_message_that_steered_is_taken(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two", "m-two")
    with pytest.raises(Conflict, match="other content"):
        await steer(chat, "three", "m-two")
    await finish(chat, running, steering)
    with pytest.raises(Conflict, match="edit an earlier one"):
        await chat.submit("three", "m-two", edit=True)
    with pytest.raises(NotFound):
        await chat.admit(Regenerate(MessageId("m-two")))


async def test_the_last_answer_is_made_again_for_its_own_message(chat: Chat, running: Run) -> None:
    await finish(chat, running, await steer(chat, "two"))
    again = await chat.regenerate()
    assert again.user_message == running.user_message
    assert await chat.texts() == ["one"]


async def test_an_edit_deletes_what_would_have_steered(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one", "m-one"))).run
    steering = await steer(chat, "two")
    edited = await chat.submit("uno", "m-one", edit=True, when_busy=WhenBusy.INTERRUPT)
    assert await chat.end(run, state=State.CANCELLED) == edited.run.request
    assert await chat.store.find_run(chat.owner, steering.id) is None
    assert await chat.texts() == ["uno"]


async def test_steering_replaces_no_message(chat: Chat) -> None:
    await chat.claim(await chat.send("one", "m-one"))
    with pytest.raises(Busy):
        await steer(chat, "uno", "m-one", edit=True)


async def test_stopping_a_message_stops_the_run_that_has_it(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two", "m-two")
    await waiting(chat, running, steering)
    stopped = await chat.store.interrupt(chat.owner, chat.id, message=MessageId("m-two"))
    assert stopped.run is not None
    assert stopped.run.id == running.id


async def test_a_stopped_message_reaches_no_run(chat: Chat, running: Run) -> None:
    steering = await steer(chat, "two", "m-two")
    await chat.store.interrupt(chat.owner, chat.id, message=MessageId("m-two"))
    assert await waiting(chat, running) == []
    assert await finish(chat, running) == steering.request
    assert (await chat.claim(steering)).run.interrupted


async def test_another_owner_steers_nothing(chat: Chat, running: Run) -> None:
    other = Chat(chat.store, OTHER, chat.id)
    assert (await steer(other, "two")).steers is None
    assert await waiting(chat, running) == []


# ------------------------------------------------------------------------------------------------ limits


async def test_so_many_messages_wait_for_one_step(chat: Chat, running: Run) -> None:
    sent = [await steer(chat, str(number)) for number in range(STEERING_MAX)]
    with pytest.raises(Limited, match=str(STEERING_MAX)):
        await steer(chat, "one more")
    await waiting(chat, running, sent[0])
    await steer(chat, "one more")


async def test_a_run_id_that_is_not_there_has_no_steering(chat: Chat) -> None:
    assert await chat.store.find_steering(RunId(fresh("run")), 1, []) == []
