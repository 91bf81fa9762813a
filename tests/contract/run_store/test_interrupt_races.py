"""`RunStore`: interrupts that race with each other and with other requests."""

import asyncio
from collections.abc import Sequence

import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Regenerate, WhenBusy
from rejoin_protocol.errors import Conflict
from rejoin_protocol.lifecycle import State
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import AGENT, DEFAULT, Chat, through

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_concurrent_interrupts_have_one_effect(stores: Sequence[RunStore]) -> None:
    chats = through(stores)
    run, _ = await chats[0].wait_for_decision("one", 2)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].interrupt(run if n % 2 else None)) for n in range(12)]
    [answer] = {(task.result().run, task.result().interrupted) for task in tasks}
    assert answer == (await chats[0].found(run), True)
    assert answer[0] is not None
    assert (answer[0].state, answer[0].turn, answer[0].ready) == (State.QUEUED, 1, True)


async def test_an_interrupt_that_races_with_a_claim_is_never_missed(stores: Sequence[RunStore]) -> None:
    for _ in range(50):
        chat, other = through(stores)[:2]
        run = await chat.send("one")
        async with asyncio.TaskGroup() as group:
            claimed = group.create_task(chat.claim(run))
            interrupted = group.create_task(other.interrupt())
        told = interrupted.result().run
        assert told is not None
        assert claimed.result().run.interrupted or told.state is State.RUNNING
        assert (await chat.found(run)).interrupted


async def test_an_interrupt_that_races_with_a_suspension_ends_the_run_once(
    stores: Sequence[RunStore],
) -> None:
    for _ in range(50):
        chat, other = through(stores)[:2]
        run = (await chat.claim(await chat.send("one"))).run
        await chat.ask(run, 2)
        async with asyncio.TaskGroup() as group:
            suspended = group.create_task(chat.suspend(run))
            interrupted = group.create_task(other.interrupt(run))
        told = interrupted.result().run
        assert told is not None
        queued = [told.request] if told.state is State.QUEUED else []
        request = suspended.result()
        assert [*queued, *([] if request is None else [request])] == [RunRequest(AGENT, run.id, 1)]
        claim = await other.claim(RunRequest(AGENT, run.id, 1))
        assert claim.run.interrupted
        assert await chat.pending() == []


async def test_an_interrupt_that_races_with_questions_leaves_none_open(stores: Sequence[RunStore]) -> None:
    for _ in range(50):
        chat, other = through(stores)[:2]
        run = (await chat.claim(await chat.send("one"))).run
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(chat.ask(run, 3))
            group.create_task(other.interrupt())
        assert await chat.pending() == []
        with pytest.raises(Conflict):
            await other.decide(*asked.result())


async def test_an_interrupt_that_races_with_the_decision_goes_on_once(stores: Sequence[RunStore]) -> None:
    async def decide(chat: Chat) -> bool:
        try:
            await chat.decide(*approvals)
        except Conflict:
            return False
        return True

    for _ in range(50):
        chat, other, third = through(stores)
        run, approvals = await chat.wait_for_decision("one", 2)
        async with asyncio.TaskGroup() as group:
            decided = group.create_task(decide(other))
            group.create_task(third.interrupt(run))
        found = await chat.found(run)
        assert (found.state, found.turn, found.interrupted) == (State.QUEUED, 1, True)
        claim = await chat.claim(found)
        assert {one.decision is not None for one in claim.approvals} == {decided.result()}


async def test_an_interrupt_that_races_with_the_end_ends_once(stores: Sequence[RunStore]) -> None:
    for _ in range(50):
        chat, other = through(stores)[:2]
        run = (await chat.claim(await chat.send("one"))).run
        following = await chat.send("two")
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(chat.end(run))
            interrupted = group.create_task(other.interrupt(run))
        found = await chat.found(run)
        assert ended.result() == following.request
        assert (found.state, found.interrupted) == (State.COMPLETED, interrupted.result().interrupted)
        assert not (await chat.found(following)).interrupted


async def test_messages_that_interrupt_each_other_still_run_one_after_the_other(
    stores: Sequence[RunStore],
) -> None:
    """Only the current run is interrupted, and only its runner gets a message."""
    chats = through(stores)
    first = (await chats[0].claim(await chats[0].send("first"))).run
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(chats[n % 3].submit(str(n), when_busy=WhenBusy.INTERRUPT)) for n in range(12)
        ]
    assert {task.result().interrupted for task in tasks} == {await chats[0].found(first)}
    request = await chats[0].end(first, state=State.CANCELLED)
    served = 0
    while request is not None:
        claim = await chats[1].claim(request)
        assert not claim.run.interrupted
        assert await chats[2].store.current_run(DEFAULT, chats[0].id) == claim.run
        request = await chats[0].end(claim.run)
        served += 1
    assert served == 12


async def test_a_regeneration_that_races_with_the_end_leaves_one_answer(stores: Sequence[RunStore]) -> None:
    for _ in range(50):
        chat, other = through(stores)[:2]
        run = (await chat.claim(await chat.send("one"))).run
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(chat.end(run, "late"))
            again = group.create_task(other.admit(Regenerate(), WhenBusy.INTERRUPT))
        made = again.result()
        assert made.created
        assert made.run.ready == (ended.result() is None) == (made.interrupted is None)
        assert ended.result() in {None, made.run.request}
        await other.end((await other.claim(made.run)).run, "again")
        assert await chat.texts() == ["one", "again"]


async def test_regenerations_that_interrupt_each_other_leave_one_answer(stores: Sequence[RunStore]) -> None:
    chats = through(stores)
    first = (await chats[0].claim(await chats[0].send("one"))).run
    async with asyncio.TaskGroup() as group:
        for n in range(9):
            group.create_task(chats[n % 3].admit(Regenerate(), WhenBusy.INTERRUPT))
    request = await chats[0].end(first, "0", State.CANCELLED)
    served, flags = 0, []
    while request is not None:
        claim = await chats[1].claim(request)
        served += 1
        flags.append(claim.run.interrupted)
        request = await chats[1].end(claim.run, f"{served}")
    assert flags == [True] * 8 + [False]
    assert await chats[2].texts() == ["one", "9"]
