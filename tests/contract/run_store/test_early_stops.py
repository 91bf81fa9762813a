"""What `ports.RunStore` promises to interrupts that overtake their message, and to those that name one."""

import asyncio
from collections.abc import Sequence
from itertools import batched

import pytest

from rejoin_adapters.ports.run_store import EARLY_STOPS_MAX, RunStore
from rejoin_adapters.store_types import Interrupted, Owner
from rejoin_protocol.errors import Limited
from rejoin_protocol.ids import CallId, MessageId, TenantId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import ANN, BEN, OTHER, Chat, fresh, through

pytest_plugins = ("tests.support.data.store_fixtures",)


async def stop(chat: Chat, message: str | None = None) -> Interrupted:
    named = MessageId(message) if message is not None else None
    return await chat.store.interrupt(chat.owner, chat.id, message=named)


@pytest.mark.feature("F97")
async def test_a_stop_that_names_a_message_holds_until_the_message_comes(chat: Chat) -> None:
    await chat.complete("one")
    assert await stop(chat, "m2") == Interrupted(None, interrupted=False)
    other = await chat.send("another", "m1")
    assert not other.interrupted
    stopped = await chat.send("two", "m2")
    assert (stopped.interrupted, stopped.state) == (True, State.QUEUED)
    assert (await chat.send("two", "m2")).id == stopped.id


@pytest.mark.feature("F97")
@pytest.mark.parametrize("message", ["m1", None])
async def test_a_stop_comes_before_the_session_itself(store: RunStore, message: str | None) -> None:
    chat = Chat(store)
    assert await stop(chat, message) == Interrupted(None, interrupted=False, known=False)
    first = await chat.send("one", "m1")
    assert (first.interrupted, first.ready) == (True, True)
    claimed = (await chat.claim(first)).run
    assert claimed.interrupted
    await chat.end(claimed, state=State.CANCELLED)
    assert not (await chat.send("two", "m2")).interrupted


async def test_a_stop_without_a_name_is_not_kept_in_a_session_that_exists(chat: Chat) -> None:
    await chat.complete("one")
    assert await stop(chat) == Interrupted(None, interrupted=False)
    assert not (await chat.send("two")).interrupted


async def test_a_stop_that_names_a_message_stops_its_run_alone(chat: Chat) -> None:
    await chat.wait_for_decision("one", 1)
    running = (await chat.claim(await chat.send("two", "m2"))).run
    queued = await chat.send("three", "m3")
    assert (await stop(chat, "m3")).run == await chat.found(queued)
    assert not (await chat.found(running)).interrupted
    assert (await stop(chat, running.answer)).run == await chat.found(running)
    assert len(await chat.pending()) == 1


async def test_a_stop_of_another_owner_stops_nothing(store: RunStore) -> None:
    ann = Chat(store, ANN)
    for stranger in (Chat(store, OTHER, ann.id), Chat(store, BEN, ann.id)):
        await stop(stranger, "m1")
        await stop(stranger)
    assert not (await ann.send("one", "m1")).interrupted
    await stop(Chat(store, BEN, ann.id), "m2")
    assert not (await ann.send("two", "m2")).interrupted


async def test_a_tenant_has_a_bounded_number_of_stops_that_wait(store: RunStore) -> None:
    """The same stop again is one; other tenants, and interrupts of runs that exist, are not limited."""
    tenant = Owner(TenantId(fresh("tenant")))
    chats = [Chat(store, tenant) for _ in range(EARLY_STOPS_MAX)]
    for _ in range(2):
        for some in batched(chats, 100):
            async with asyncio.TaskGroup() as group:
                for chat in some:
                    group.create_task(stop(chat, "m1"))
    late = Chat(store, tenant)
    with pytest.raises(Limited):
        await stop(late, "m1")
    run = await late.send("one", "m1")
    assert not run.interrupted
    assert (await stop(late, "m1")).interrupted
    assert (await chats[-1].send("one", "m1")).interrupted
    assert await stop(Chat(store, ANN), "m1") == Interrupted(None, interrupted=False, known=False)


@pytest.mark.feature("F97")
async def test_a_stop_that_races_with_its_message_is_never_lost(stores: Sequence[RunStore]) -> None:
    """In a session that the message creates: either one is first, and the run is interrupted."""
    for _ in range(40):
        chat, other = through(stores)[:2]
        async with asyncio.TaskGroup() as group:
            sent = group.create_task(chat.send("one", "m1"))
            group.create_task(stop(other, "m1"))
        assert (await chat.found(sent.result())).interrupted


async def test_what_the_user_had_seen_is_kept_from_the_first_interrupt(chat: Chat) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    assert await chat.store.find_seen(run.id) is None
    part = {"type": "text", "text": "so f"}
    await chat.store.interrupt(chat.owner, chat.id, seen=part)
    await chat.store.interrupt(chat.owner, chat.id, seen={"type": "text", "text": "else"})
    assert await chat.store.find_seen(run.id) == part


@pytest.mark.feature("F58")
async def test_a_call_is_found_among_the_owner_s_own(store: RunStore) -> None:
    """The open ones first; ids of calls are unique in a run only."""
    ann, again, ben = Chat(store, ANN), Chat(store, ANN), Chat(store, BEN)
    first, approvals = await ann.wait_for_decision("one")
    second, _ = await again.wait_for_decision("two")
    foreign, _ = await ben.wait_for_decision("three")
    await ann.decide(*approvals)
    mine = [first.id, second.id, foreign.id]
    calls = await store.find_calls(ANN, CallId("call_0"))
    found = [call.run.id for call in calls if call.run.id in mine]
    assert found == [second.id, first.id]
    assert [call.approval.decision is None for call in calls if call.run.id in mine] == [True, False]
    assert await store.find_calls(ANN, CallId("call_77")) == []
