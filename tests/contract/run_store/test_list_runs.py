"""`RunStore.list_runs`, for operators."""

from datetime import UTC, datetime, timedelta
from typing import Any

from rejoin_adapters.store_types import Owner, Run, RunFilter
from rejoin_protocol.ids import AgentName, RunId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_runs_are_listed_newest_first_within_their_tenant(chat: Chat) -> None:
    owner = Owner(TenantId(fresh("ten")))
    runs = [await Chat(chat.store, owner).send(text) for text in ("one", "two", "three")]
    claim = await Chat(chat.store, owner, runs[0].session).claim(runs[0])
    listed = await chat.store.list_runs(owner)
    assert [one.run.id for one in listed] == sorted((run.id for run in runs), reverse=True)
    [running] = await chat.store.list_runs(owner, RunFilter(state=State.RUNNING))
    assert running.run == claim.run
    assert running.runner
    assert running.created_at <= running.updated_at
    assert len(await chat.store.list_runs(owner, limit=2)) == 2
    assert await chat.store.list_runs(Owner(TenantId(fresh("ten")))) == []


async def test_a_filter_names_what_all_of_its_fields_say(chat: Chat) -> None:
    tenant = TenantId(fresh("ten"))
    ann, bob = (Owner(tenant, UserId(name)) for name in ("ann", "bob"))
    begun_at = datetime.now(UTC) - timedelta(milliseconds=1)  # ids have whole milliseconds
    one = await Chat(chat.store, ann).send("one")
    two = await Chat(chat.store, ann).send("two")
    other = await Chat(chat.store, bob).send("three")
    claim = await Chat(chat.store, ann, two.session).claim(two)
    await chat.store.end(two.id, claim.run.attempt, State.FAILED, None, "no", "model_error")
    everybody = Owner(tenant)

    async def listed(owner: Owner = everybody, limit: int = 20, **wanted: Any) -> list[RunId]:
        return [found.run.id for found in await chat.store.list_runs(owner, RunFilter(**wanted), limit)]

    def newest_first(*runs: Run) -> list[RunId]:
        return sorted((run.id for run in runs), reverse=True)

    newest, middle, oldest = newest_first(one, two, other)
    assert await listed() == [newest, middle, oldest]
    assert await listed(user=UserId("ann")) == newest_first(one, two)
    assert await listed(ann, user=UserId("bob")) == []
    assert await listed(state=State.FAILED) == [two.id]
    assert await listed(error="model_error") == await listed(error="model_error", user="ann") == [two.id]
    assert await listed(error="model_error", state=State.FAILED) == [two.id]
    assert await listed(error="internal_error") == await listed(error="model_error", user="bob") == []
    assert await listed(error="model_error", state=State.QUEUED) == []
    assert await listed(state=State.SUSPENDED) == []
    assert await listed(agent=one.agent, state=State.QUEUED) == newest_first(one, other)
    assert await listed(agent=AgentName("nobody")) == []
    assert await listed(ann, session=one.session) == [one.id]
    assert await listed(session=SessionId(fresh("none"))) == []
    assert await listed(since=begun_at) == [newest, middle, oldest]
    assert await listed(since=begun_at + timedelta(hours=1)) == []
    assert await listed(limit=2, before=newest) == [middle, oldest]
    assert await listed(limit=1, before=middle) == [oldest]
    [failed] = await chat.store.list_runs(everybody, RunFilter(state=State.FAILED))
    assert failed.started_at is not None
    assert failed.ended_at is not None
    assert failed.created_at <= failed.started_at <= failed.ended_at
    [queued] = await chat.store.list_runs(ann, RunFilter(session=one.session))
    assert (queued.started_at, queued.ended_at) == (None, None)
