"""`SessionStore.search`: sessions by a part of their names, page by page."""

from typing import Any

import pytest

from rejoin_adapters.console_types import SEARCHED_MAX, SessionFilter
from rejoin_adapters.ports.session_store import SessionStore
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.store_types import Owner
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, SessionId, TenantId, UserId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import AGENT, Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)


@pytest.fixture
def sessions(ports: DatabasePorts) -> SessionStore:
    return ports.session_store


async def test_a_session_is_found_by_its_title_its_first_words_and_its_id(
    ports: DatabasePorts, sessions: SessionStore
) -> None:
    tenant = TenantId(fresh("ten"))
    ann, bob, everybody = Owner(tenant, UserId("ann")), Owner(tenant, UserId("bob")), Owner(tenant)
    paris, rome = Chat(ports.run_store, ann), Chat(ports.run_store, bob)
    await paris.complete("A trip to PARIS, 100% by train")
    await rome.complete("Where is Rome?")
    named = Chat(ports.run_store, ann)
    await named.complete("Where is Oslo?")
    await sessions.update(ann, named.id, title="Norway")

    async def found(owner: Owner = everybody, limit: int = 20, **wanted: Any) -> list[SessionId]:
        page = await sessions.search(owner, SessionFilter(**wanted), limit)
        assert page.next is None
        return [one.id for one in page.sessions]

    assert await found() == [named.id, rome.id, paris.id]
    assert await found(text="paris") == [paris.id]
    assert await found(text="100%") == [paris.id]
    assert await found(text="100_") == []
    assert await found(text="WHERE") == [rome.id]  # the other one has a title
    assert await found(text="norw") == [named.id]
    assert await found(text=rome.id[4:].upper()) == [rome.id]
    assert await found(user=UserId("bob")) == [rome.id]
    assert await found(ann) == [named.id, paris.id]
    assert await found(ann, user=UserId("bob")) == []
    assert await found(agent=AGENT, text="rome") == [rome.id]
    assert await found(agent=AgentName("nobody")) == []
    with pytest.raises(Invalid):
        await sessions.search(everybody, SessionFilter(before="nonsense"))


@pytest.mark.parametrize("text", [None, "number"])
async def test_the_pages_have_each_session_once(
    ports: DatabasePorts, sessions: SessionStore, text: str | None
) -> None:
    owner = Owner(TenantId(fresh("ten")))
    made = []
    for number in range(5):
        chat = Chat(ports.run_store, owner)
        await chat.complete(f"number {number}")
        made.append(chat.id)
    seen: list[SessionId] = []
    before = None
    while True:
        page = await sessions.search(owner, SessionFilter(text=text, before=before), 2)
        seen += [one.id for one in page.sessions]
        before = page.next
        if before is None:
            break
    assert seen == made[::-1]


async def test_a_search_looks_at_a_bounded_number_of_sessions_and_goes_on_behind_them(
    postgres: PostgresRunStore,
) -> None:
    """In the database alone: it stores a thousand sessions at once."""
    owner = Owner(TenantId(fresh("ten")))
    chat = Chat(postgres, owner)
    await chat.complete("the needle")
    query = """
        insert into sessions (tenant_id, id, agent, title, updated_at)
        select tenant_id, 'hay' || n, agent, 'hay', updated_at + n * interval '1 second'
        from sessions, generate_series(1, $2) n where tenant_id = $1
    """
    await postgres.database.fetch_text(query, owner.tenant, SEARCHED_MAX)
    sessions = PostgresSessionStore(postgres.database)
    first = await sessions.search(owner, SessionFilter(text="needle"))
    assert first.sessions == []
    assert first.next is not None
    rest = await sessions.search(owner, SessionFilter(text="needle", before=first.next))
    assert [one.id for one in rest.sessions] == [chat.id]
    assert rest.next is None
