"""Two users of one tenant may give their sessions the same name: neither sees, blocks or ends the other's."""

import asyncio
from dataclasses import dataclass

import pytest

from rejoin_adapters.session_keys import mark_of
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Conflict, Invalid
from rejoin_protocol.ids import AgentName, CallId, MessageId, SessionId, TenantId, UserId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import AGENT, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


@dataclass(frozen=True)
class Names:
    """A tenant with two users, both of whom have a session of the same name."""

    tenant: Owner
    ann: Owner
    ben: Owner
    name: SessionId

    @property
    def bens_id(self) -> SessionId:
        """As callers without a user see Ben's session, which came second."""
        assert self.ben.user is not None
        return SessionId(self.name + mark_of(self.ben.user))


@pytest.fixture
def names() -> Names:
    tenant = TenantId(fresh("ten"))
    ann, ben = (Owner(tenant, UserId(name)) for name in ("ann", "ben"))
    return Names(Owner(tenant), ann, ben, SessionId("1"))


async def test_each_user_has_a_session_of_that_name(ports: DatabasePorts, names: Names) -> None:
    store, threads = ports.run_store, ports.session_store
    ann, ben = (Chat(store, owner, names.name) for owner in (names.ann, names.ben))
    await ann.complete("of Ann")
    await ben.complete("of Ben")
    for chat, said in ((ann, "of Ann"), (ben, "of Ben")):
        assert (await chat.texts())[0] == said
        assert [one.id for one in (await threads.list(chat.owner)).sessions] == [names.name]
        assert [one.run.session for one in await store.list_runs(chat.owner)] == [names.name]
        assert {one.run.session for one in await threads.runs(chat.owner, names.name)} == {names.name}
        run = await store.current_run(chat.owner, names.name)
        assert run is not None
        assert run.session == names.name
        assert await store.find_run(chat.owner, run.id) == run
        assert list(await threads.openings(chat.owner, [names.name])) == [names.name]
    await threads.update(names.ben, names.name, title="Ben's")
    found = await threads.get(names.ann, names.name)
    assert found is not None
    assert found.title is None
    await threads.delete(names.ann, names.name)
    assert await store.history(names.ann, names.name) is None
    assert (await ben.texts())[0] == "of Ben"
    await ann.complete("again")
    assert (await ann.texts())[0] == "again"
    assert (await ben.texts())[0] == "of Ben"


async def test_a_caller_without_a_user_sees_both_by_their_ids(ports: DatabasePorts, names: Names) -> None:
    await Chat(ports.run_store, names.ann, names.name).complete("of Ann")
    await Chat(ports.run_store, names.ben, names.name).complete("of Ben")
    listed = (await ports.session_store.list(names.tenant)).sessions
    assert {one.id: one.user for one in listed} == {names.name: "ann", names.bens_id: "ben"}
    for id, said in ((names.name, "of Ann"), (names.bens_id, "of Ben")):
        assert (await Chat(ports.run_store, names.tenant, id).texts())[0] == said
    assert (await Chat(ports.run_store, names.ben, names.bens_id).texts())[0] == "of Ben"


async def test_questions_forks_and_interrupts_are_of_ones_own_session(
    ports: DatabasePorts, names: Names
) -> None:
    store, threads = ports.run_store, ports.session_store
    ann, ben = (Chat(store, owner, names.name) for owner in (names.ann, names.ben))
    await ann.complete("hello")
    await ben.wait_for_decision("hello")
    assert await store.pending_approvals(names.ann, names.name) == []
    [asked] = await store.pending_approvals(names.ben, names.name)
    [call] = await store.find_calls(names.ben, CallId("call_0"), names.name)
    assert call.run.session == names.name
    assert call.approval.request.id == asked.request.id
    for owner in (names.ann, names.ben):
        history = await store.history(owner, names.name)
        assert history is not None
        answer = MessageId(history.messages[-1]["id"])
        fork = await threads.fork(owner, names.name, answer, SessionId("2"))
        assert fork.id == "2"
        origin = await threads.origin(owner, SessionId("2"))
        assert origin is not None
        assert origin.source == names.name
        assert [one.id for one in await threads.forks(owner, [names.name])] == ["2"]
    ended = await store.interrupt(names.ben, names.name)
    assert ended.interrupted
    assert ended.run is not None
    assert ended.run.session == names.name
    assert not (await store.interrupt(names.ann, names.name)).interrupted


async def test_a_name_that_is_taken_at_the_same_moment_is_free_for_both(
    ports: DatabasePorts, names: Names
) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(8):
            for owner in (names.ann, names.ben):
                group.create_task(Chat(ports.run_store, owner, SessionId(f"s{number}")).submit("hello"))
    for owner in (names.ann, names.ben):
        assert len((await ports.session_store.list(owner)).sessions) == 8


async def test_nobody_takes_the_id_of_a_session_that_another_user_may_need(
    ports: DatabasePorts, names: Names
) -> None:
    for owner in (names.ann, names.tenant):
        with pytest.raises(Invalid, match="16 hexadecimal digits"):
            await Chat(ports.run_store, owner, names.bens_id).submit("squat")
    await Chat(ports.run_store, names.ann, names.name).complete("of Ann")
    await Chat(ports.run_store, names.ben, names.name).complete("of Ben")


async def test_dialogues_of_mcp_clients_are_their_users(ports: DatabasePorts, names: Names) -> None:
    await Chat(ports.run_store, names.ann, names.name).complete("of Ann")
    await ports.mcp_sessions.open(names.ben, names.name, AGENT)
    assert await ports.mcp_sessions.find_agent(names.ben, names.name) == AgentName("demo")
    with pytest.raises(Conflict):
        await ports.mcp_sessions.open(names.ben, names.name, AGENT)
    assert await ports.mcp_sessions.end(names.ben, names.name)
    assert await ports.mcp_sessions.find_agent(names.ben, names.name) is None
