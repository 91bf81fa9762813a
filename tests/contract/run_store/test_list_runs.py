"""`RunStore.list_runs`, for operators."""

from rejoin_adapters.store_types import Owner
from rejoin_protocol.ids import TenantId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


async def test_runs_are_listed_newest_first_within_their_tenant(chat: Chat) -> None:
    owner = Owner(TenantId(fresh("ten")))
    runs = [await Chat(chat.store, owner).send(text) for text in ("one", "two", "three")]
    claim = await Chat(chat.store, owner, runs[0].session).claim(runs[0])
    listed = await chat.store.list_runs(owner)
    assert [one.run.id for one in listed] == sorted((run.id for run in runs), reverse=True)
    [running] = await chat.store.list_runs(owner, State.RUNNING)
    assert running.run == claim.run
    assert running.runner
    assert running.created_at <= running.updated_at
    assert len(await chat.store.list_runs(owner, limit=2)) == 2
    assert await chat.store.list_runs(Owner(TenantId(fresh("ten")))) == []
