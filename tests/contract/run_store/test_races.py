"""`RunStore`: concurrent calls of many processes."""

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest

from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.postgres.runs.run_store import open_run_store
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.store_types import Limits, Owner, WhenBusy
from rejoin_protocol.errors import Conflict
from rejoin_protocol.ids import SessionId, TenantId
from rejoin_protocol.lifecycle import BUSY, State
from rejoin_protocol.run_request import RunRequest
from tests.support.data.store_session import AGENT, DEFAULT, Chat, fresh, text_of
from tests.support.system.databases import migrated_database
from tests.support.system.observation import wait_until

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_a_hundred_sends_through_three_gateways_run_one_after_the_other(
    stores: Sequence[RunStore],
) -> None:
    session = SessionId(fresh("ses"))
    chats = [Chat(store, id=session) for store in stores]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].send(str(n))) for n in range(100)]
    runs = {task.result().id: task.result() for task in tasks}
    assert [run.ready for run in runs.values()].count(True) == 1
    order = await chats[0].texts()
    request: RunRequest | None = next(run.request for run in runs.values() if run.ready)
    served = []
    while request is not None:
        claim = await chats[1].claim(request)
        assert await chats[2].store.current_run(DEFAULT, session) == claim.run
        served.append(text_of(claim.history[-1]))
        request = await chats[0].end(claim.run, f"answer {served[-1]}")
    assert served == order
    assert await chats[0].texts() == [text for one in order for text in (one, f"answer {one}")]


async def test_a_send_that_races_with_an_end_is_never_left_waiting(stores: Sequence[RunStore]) -> None:
    for _ in range(100):
        chat, other = Chat(stores[0]), Chat(stores[1])
        other.id = chat.id
        run = (await chat.claim(await chat.send("one"))).run
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(chat.end(run))
            sent = group.create_task(other.send("two"))
        following = sent.result()
        assert following.ready != (ended.result() is not None)
        assert ended.result() in {None, following.request}
        await other.claim(following)


async def test_a_decision_that_races_with_the_suspension_goes_on_once(stores: Sequence[RunStore]) -> None:
    for _ in range(50):
        chat, other = Chat(stores[0]), Chat(stores[1])
        other.id = chat.id
        run = (await chat.claim(await chat.send("one"))).run
        approvals = await chat.ask(run, 2)
        async with asyncio.TaskGroup() as group:
            suspended = group.create_task(chat.suspend(run))
            decided = [group.create_task(other.decide(approval)) for approval in approvals]
        queued = [one.result().run.request for one in decided if one.result().run.state is State.QUEUED]
        request = suspended.result()
        assert [*queued, *([] if request is None else [request])] == [RunRequest(AGENT, run.id, 1)]
        await other.claim(RunRequest(AGENT, run.id, 1))


async def test_concurrent_decisions_have_one_effect(stores: Sequence[RunStore]) -> None:
    chats = [Chat(store) for store in stores]
    for chat in chats:
        chat.id = chats[0].id
    _, approvals = await chats[0].wait_for_decision("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].decide(*approvals)) for n in range(12)]
    assert {(task.result().run.state, task.result().run.turn) for task in tasks} == {(State.QUEUED, 1)}


async def test_contradicting_decisions_have_one_winner(stores: Sequence[RunStore]) -> None:
    async def decide(chat: Chat, *, approved: bool) -> bool | None:
        try:
            await chat.decide(*approvals, approved=approved)
        except Conflict:
            return None
        return approved

    chats = [Chat(store) for store in stores]
    for chat in chats:
        chat.id = chats[0].id
    _, approvals = await chats[0].wait_for_decision("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(decide(chats[n % 3], approved=n % 2 == 0)) for n in range(12)]
    assert len({task.result() for task in tasks} - {None}) == 1
    assert [task.result() for task in tasks].count(None) == 6


@pytest.mark.parametrize("known", [False, True])
async def test_a_message_that_arrives_many_times_makes_one_run(
    stores: Sequence[RunStore], *, known: bool
) -> None:
    chats = [Chat(store) for store in stores]
    for chat in chats:
        chat.id = chats[0].id
    if known:
        await chats[0].complete("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(chats[n % 3].submit("hello", "m")) for n in range(12)]
    assert len({task.result().run.id for task in tasks}) == 1
    assert [task.result().created for task in tasks].count(True) == 1


async def test_concurrent_edits_and_regenerations_have_one_winner(stores: Sequence[RunStore]) -> None:
    async def change(chat: Chat, text: str) -> bool:
        try:
            await (chat.submit(text, "m", edit=True) if text else chat.regenerate())
        except Conflict:
            return False
        return True

    chats = [Chat(store) for store in stores]
    for chat in chats:
        chat.id = chats[0].id
    await chats[0].end((await chats[0].claim(await chats[0].send("hello", "m"))).run)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(change(chats[n % 3], f"{n}" if n % 2 else "")) for n in range(12)]
    assert [task.result() for task in tasks].count(True) == 1
    assert len(await chats[0].texts()) == 1


async def test_concurrent_claims_are_different_attempts(stores: Sequence[RunStore]) -> None:
    chat = Chat(stores[0])
    run = await chat.send("one")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stores[n % 3].claim(run.request, str(n))) for n in range(9)]
    attempts = {claim.run.attempt for task in tasks if (claim := task.result()) is not None}
    assert attempts == set(range(1, 10))
    assert (await stores[0].find_run(DEFAULT, run.id) or run).state in BUSY


WAITS = """
    select count(*) = 1 from pg_stat_activity
    where wait_event_type = 'Lock' and datname = current_database()
"""
END = "select end_run($1, 1, 'completed', null, null, 0, 0)"


async def test_a_decision_goes_on_after_a_run_of_its_session_that_got_a_place_meanwhile(
    database_url: str,
) -> None:
    """The decided run waits for a place of its tenant. The place goes to a later run of its session first."""
    owner = Owner(TenantId(fresh("ten")))
    async with migrated_database(database_url) as url, await open_run_store(url) as store:
        await PostgresTenants(store.database).set_limits(owner.tenant, Limits(running_max=2))
        chat, others = Chat(store, owner), [Chat(store, owner) for _ in range(2)]
        _, (approval,) = await chat.wait_for_decision("may I?")
        ended = [(await other.claim(await other.send("go"))).run for other in others]
        following = await chat.send("next")
        assert not following.ready
        holder, watcher = await asyncpg.connect(url), await asyncpg.connect(url)
        async with asyncio.TaskGroup() as group, holder.transaction():
            await holder.execute("select from tenants where id = $1 for no key update", owner.tenant)
            decided = group.create_task(chat.decide(approval))
            await wait_until(lambda: watcher.fetchval(WAITS), "the decision waits for the tenant")
            for run in ended:
                await holder.fetchval(END, run.id)
        await holder.close()
        await watcher.close()
        assert not decided.result().run.ready
        assert await chat.end((await chat.claim(following)).run) == decided.result().run.request


async def test_a_message_that_races_with_the_end_of_the_run_it_steers_is_the_next_turn(
    stores: Sequence[RunStore],
) -> None:
    """In either order: it waits and is promoted, or it finds no run that works."""
    for _ in range(100):
        chat, other = Chat(stores[0]), Chat(stores[1])
        other.id = chat.id
        run = (await chat.claim(await chat.send("one"))).run
        async with asyncio.TaskGroup() as group:
            ended = group.create_task(chat.end(run))
            sent = group.create_task(other.submit("two", when_busy=WhenBusy.STEER))
        following = sent.result().run
        assert (following.steers is None) == (ended.result() is None)
        assert ended.result() in {None, following.request}
        assert await chat.texts() == ["one", "done", "two"]
        assert (await other.claim(following.request)).run.steers is None


async def test_a_message_is_in_the_answer_or_the_next_turn_whenever_the_runner_asks(
    stores: Sequence[RunStore],
) -> None:
    for _ in range(100):
        chat, other = Chat(stores[0]), Chat(stores[1])
        other.id = chat.id
        run = (await chat.claim(await chat.send("one"))).run
        async with asyncio.TaskGroup() as group:
            found = group.create_task(chat.store.find_steering(run.id, run.attempt, []))
            sent = group.create_task(other.submit("two", when_busy=WhenBusy.STEER))
        logged = [{"type": "steering-message", "id": one["id"], "parts": []} for one in found.result()]
        answer = chat.answer(run, "done")
        request = await chat.store.end(
            run.id, run.attempt, State.COMPLETED, answer | {"parts": [*answer["parts"], *logged]}, None
        )
        assert request == (None if logged else sent.result().run.request)
        assert await chat.texts() == ["one", "done", *([] if logged else ["two"])]
