"""`RunStore`: requests with the same idempotency key start one run."""

import asyncio
from collections.abc import Sequence

import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.store_types import Regenerate, WhenBusy
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import MessageId
from tests.support.data.store_session import OTHER, Chat, through

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_the_same_key_attaches_to_its_run(chat: Chat) -> None:
    first = await chat.submit("one", "m", key="k")
    again = await chat.submit("one", "m", key="k")
    assert (again.run, again.created) == (first.run, False)
    await chat.end((await chat.claim(first.run)).run)
    newest = await chat.regenerate()
    assert (await chat.submit("one", "m", key="k")).run.id == first.run.id
    assert (await chat.submit("one", "m")).run.id == newest.id


async def test_the_same_key_with_another_ask_is_a_conflict_and_stores_nothing(chat: Chat) -> None:
    await chat.end((await chat.claim((await chat.submit("one", "m", key="k")).run)).run)
    for attempt in (
        chat.submit("two", "m", key="k", edit=True),
        chat.submit("one", "n", key="k"),
        chat.admit(Regenerate(), key="k"),
        chat.admit(Regenerate(MessageId("m")), key="k"),
    ):
        with pytest.raises(Conflict, match="idempotency key"):
            await attempt
    assert await chat.texts() == ["one", "done"]


@pytest.mark.parametrize("named", [False, True])
async def test_a_regeneration_with_a_key_happens_once(chat: Chat, *, named: bool) -> None:
    old = await chat.complete("one", "first")
    target = old.answer if named else None
    first = await chat.admit(Regenerate(target), key="k")
    assert first.created
    await chat.end((await chat.claim(first.run)).run, "again")
    again = await chat.admit(Regenerate(target), key="k")
    assert (again.run.id, again.created) == (first.run.id, False)
    assert await chat.texts() == ["one", "again"]
    for other in (MessageId("other"), None if named else first.run.answer):
        with pytest.raises(Conflict):
            await chat.admit(Regenerate(other), key="k")


async def test_a_late_repetition_undoes_no_edit(chat: Chat) -> None:
    first = await chat.submit("one", "m", key="first")
    await chat.end((await chat.claim(first.run)).run)
    second = await chat.submit("two", "m", key="second", edit=True)
    late = await chat.submit("one", "m", key="first", edit=True, when_busy=WhenBusy.INTERRUPT)
    assert (late.run.id, late.created, late.interrupted) == (first.run.id, False, None)
    assert await chat.texts() == ["two"]
    assert not (await chat.found(second.run)).interrupted


async def test_attaching_is_not_rejected(chat: Chat) -> None:
    await chat.complete("one")
    first = await chat.admit(Regenerate(), WhenBusy.REJECT, key="k")
    assert await chat.admit(Regenerate(), WhenBusy.REJECT, key="k") == type(first)(first.run, created=False)


async def test_a_key_is_the_session_s_own(chat: Chat) -> None:
    first = await chat.submit("one", "m", key="k")
    for other in (Chat(chat.store), Chat(chat.store, OTHER, chat.id)):
        assert (await other.submit("two", "m", key="k")).run.id != first.run.id


async def test_a_rejected_request_leaves_its_key_free(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    with pytest.raises(Conflict):
        await chat.submit("two", key="k", when_busy=WhenBusy.REJECT)
    await chat.end(run)
    assert (await chat.submit("three", key="k")).created


@pytest.mark.parametrize("known", [False, True])
async def test_a_key_that_arrives_many_times_makes_one_run(
    stores: Sequence[RunStore], *, known: bool
) -> None:
    chats = through(stores)
    if known:
        await chats[0].complete("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].submit("hello", "m", key="k")) for n in range(12)]
    assert len({task.result().run.id for task in tasks}) == 1
    assert [task.result().created for task in tasks].count(True) == 1


async def test_a_regeneration_that_arrives_many_times_makes_one_run(stores: Sequence[RunStore]) -> None:
    chats = through(stores)
    await chats[0].complete("one")
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(chats[n % 3].admit(Regenerate(), WhenBusy.INTERRUPT, "k")) for n in range(12)
        ]
    assert len({task.result().run.id for task in tasks}) == 1
    assert [task.result().created for task in tasks].count(True) == 1
    assert {task.result().interrupted for task in tasks} == {None}
    assert not (await chats[0].found(tasks[0].result().run)).interrupted


async def test_a_key_for_two_asks_at_once_has_one_winner(stores: Sequence[RunStore]) -> None:
    async def submit(chat: Chat, text: str) -> str | None:
        try:
            return (await chat.submit(text, text, key="k")).run.id
        except Conflict:
            return None

    chats = through(stores)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(submit(chats[n % 3], "ab"[n % 2])) for n in range(12)]
    assert len({task.result() for task in tasks} - {None}) == 1
    assert [task.result() for task in tasks].count(None) == 6
