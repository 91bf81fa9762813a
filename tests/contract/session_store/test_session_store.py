"""`SessionStore`, adapter and double: pages, forks, names, deletion."""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rejoin_adapters.console_types import SessionFilter
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.ports.session_store import SessionStore
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.store_types import ApiKeyRow, ForkOrigin, Owner, RunSummary, SessionSummary
from rejoin_adapters.usage_types import SessionUsage
from rejoin_protocol.errors import Conflict, Fenced, Invalid, NotFound
from rejoin_protocol.ids import AgentName, MessageId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import AGENT, ANN, BEN, DEFAULT, OTHER, Chat, fresh, text_of

pytest_plugins = ("tests.support.data.store_fixtures",)


@pytest.fixture
def threads(ports: DatabasePorts) -> SessionStore:
    return ports.session_store


@pytest.fixture
def chat(ports: DatabasePorts) -> Chat:
    return Chat(ports.run_store)


@pytest.fixture
def owner() -> Owner:
    """Of a tenant that no other test has."""
    return Owner(TenantId(fresh("ten")))


async def set_updated_at(ports: DatabasePorts, owner: Owner, updated_at: datetime) -> None:
    """As if all sessions of the tenant had changed at this moment."""
    if isinstance(ports.run_store, PostgresRunStore):
        query = "update sessions set updated_at = $2 where tenant_id = $1"
        await ports.run_store.database.fetch_text(query, owner.tenant, updated_at)
        return
    assert isinstance(ports.run_store, MemoryRunStore)
    for (tenant, _), row in ports.run_store.database.sessions.items():
        row.updated_at = updated_at if tenant == owner.tenant else row.updated_at


async def make_purges_due(ports: DatabasePorts) -> None:
    """As if the time until the second purge had passed."""
    if isinstance(ports.run_store, PostgresRunStore):
        await ports.run_store.database.fetch_text("update purges set due_at = now()")
        return
    assert isinstance(ports.run_store, MemoryRunStore)
    purges = ports.run_store.database.purges
    purges |= {run: (datetime.now(UTC), again) for run, (_, again) in purges.items()}


async def ids(threads: SessionStore, chat: Chat) -> list[str]:
    return [message["id"] for message in (await threads.messages(chat.owner, chat.id)).messages]


@pytest.mark.feature("F78")
async def test_threads_are_listed_newest_first_page_by_page(
    ports: DatabasePorts, threads: SessionStore, owner: Owner
) -> None:
    chats = [Chat(ports.run_store, owner) for _ in range(5)]
    for chat in chats:
        await chat.send("hello")
    await chats[1].send("again")
    expected = [chats[n].id for n in (1, 4, 3, 2, 0)]
    seen, token = [], None
    while True:
        page = await threads.list(owner, limit=2, before=token)
        seen.append([thread.id for thread in page.sessions])
        if (token := page.next) is None:
            break
    assert seen == [expected[:2], expected[2:4], expected[4:]]
    assert (await threads.list(owner, limit=5)).next is None
    assert (await threads.list(owner, agent=AGENT)).sessions[0].id == chats[1].id
    assert (await threads.list(owner, agent=AgentName("other"))).sessions == []


async def test_threads_of_one_instant_are_all_on_some_page(
    ports: DatabasePorts, threads: SessionStore, owner: Owner
) -> None:
    for _ in range(5):
        await Chat(ports.run_store, owner).send("hello")
    await set_updated_at(ports, owner, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC))
    seen, token = set(), None
    for _ in range(3):
        page = await threads.list(owner, limit=2, before=token)
        seen |= {thread.id for thread in page.sessions}
        token = page.next
    assert (len(seen), token) == (5, None)


async def test_a_thread_says_how_it_stands(chat: Chat, threads: SessionStore) -> None:
    assert await threads.get(DEFAULT, chat.id) is None
    run = (await chat.claim(await chat.send("one", "m1"))).run
    thread = await threads.get(DEFAULT, chat.id)
    assert thread is not None
    assert (thread.agent, thread.user, thread.title, thread.metadata) == (AGENT, None, None, None)
    assert (thread.messages, thread.is_busy, thread.last_message) == (1, True, "m1")
    await chat.ask(run)
    await chat.suspend(run)
    thread = await threads.get(DEFAULT, chat.id)
    assert thread is not None
    assert (thread.messages, thread.is_busy, thread.last_message) == (2, False, run.answer)
    assert thread.created_at < thread.updated_at


@pytest.mark.parametrize("token", ["", "x", "ÿ", "bnVsbA", "WyJhIiwiYiJd", "Wy0xLCAiYSJd", "WzFlOTld"])
async def test_a_token_that_is_none_of_ours_is_refused(chat: Chat, threads: SessionStore, token: str) -> None:
    await chat.send("one")
    with pytest.raises(Invalid, match="page token"):
        await threads.list(DEFAULT, before=token)
    with pytest.raises(Invalid, match="page token"):
        await threads.messages(DEFAULT, chat.id, before=token)


async def test_messages_come_oldest_first_and_page_to_the_older_ones(
    chat: Chat, threads: SessionStore
) -> None:
    for text in "abc":
        await chat.complete(text, text.upper())
    await chat.claim(await chat.send("d"))
    pages, token = [], None
    while True:
        page = await threads.messages(DEFAULT, chat.id, limit=3, before=token)
        pages.append("".join(map(text_of, page.messages)))
        if (token := page.next) is None:
            break
    assert pages == ["cCd", "AbB", "a"]
    whole = await threads.messages(DEFAULT, chat.id, limit=7)
    history = await chat.store.history(DEFAULT, chat.id)
    assert history is not None
    assert (list(whole.messages), whole.next) == (list(history.messages), None)


async def test_runs_and_usage_of_a_session(chat: Chat, threads: SessionStore) -> None:
    for text, tokens in (("one", 1), ("two", 20)):
        run = (await chat.claim(await chat.send(text))).run
        usage = {"metadata": {"usage": {"inputTokens": tokens, "outputTokens": 2 * tokens}}}
        await chat.store.end(run.id, run.attempt, State.COMPLETED, chat.answer(run, "ok") | usage, None)
    third = await chat.send("three")
    listed = await threads.runs(DEFAULT, chat.id)
    assert [one.run.usage.input_tokens for one in listed] == [0, 20, 1]
    assert listed[0].run == third
    assert isinstance(listed[0], RunSummary)
    assert await threads.usage(DEFAULT, chat.id) == SessionUsage(21, 42, 3)


@pytest.mark.feature("F78")
async def test_a_fork_has_exactly_the_messages_before(chat: Chat, threads: SessionStore) -> None:
    for text in "abc":
        await chat.complete(text, text.upper())
    await threads.update(DEFAULT, chat.id, title="Letters", metadata={"a": 1})
    before = await ids(threads, chat)
    into = Chat(chat.store, id=SessionId(fresh("ses")))
    thread = await threads.fork(DEFAULT, chat.id, MessageId(before[3]), into.id)
    assert (thread.id, thread.messages, thread.last_message) == (into.id, 3, before[2])
    assert (thread.agent, thread.title, thread.metadata, thread.is_busy) == (
        AGENT,
        "Letters",
        {"a": 1},
        False,
    )
    assert await into.texts() == ["a", "A", "b"]
    assert await ids(threads, into) == before[:3]
    assert (
        await threads.fork(DEFAULT, chat.id, MessageId(before[3]), into.id) == thread
    )  # its answer was lost
    await into.complete("other", "OTHER")
    assert await into.texts() == ["a", "A", "b", "other", "OTHER"]
    assert await chat.texts() == ["a", "A", "b", "B", "c", "C"]
    await threads.delete(DEFAULT, chat.id)
    assert await into.texts() == ["a", "A", "b", "other", "OTHER"]


async def test_a_fork_before_the_first_message_is_empty_and_can_be_talked_to(
    chat: Chat, threads: SessionStore
) -> None:
    await chat.complete("one")
    into = Chat(chat.store)
    thread = await threads.fork(DEFAULT, chat.id, MessageId((await ids(threads, chat))[0]), into.id)
    assert (thread.messages, thread.last_message) == (0, None)
    assert await chat.store.current_run(DEFAULT, into.id) is None
    await into.complete("two")
    assert await into.texts() == ["two", "done"]


async def test_a_fork_of_a_busy_session_has_no_half_answer(chat: Chat, threads: SessionStore) -> None:
    run = (await chat.claim(await chat.send("one"))).run
    into = Chat(chat.store)
    await threads.fork(DEFAULT, chat.id, run.answer, into.id)
    await chat.end(run)
    assert await into.texts() == ["one"]


async def test_what_cannot_be_forked_is_said(chat: Chat, threads: SessionStore) -> None:
    await chat.complete("one")
    other = Chat(chat.store)
    await other.complete("two")
    [first, second] = map(MessageId, await ids(threads, chat))
    with pytest.raises(NotFound):
        await threads.fork(DEFAULT, SessionId("none"), first, SessionId(fresh("ses")))
    with pytest.raises(NotFound):
        await threads.fork(DEFAULT, chat.id, MessageId("none"), SessionId(fresh("ses")))
    with pytest.raises(Conflict):
        await threads.fork(DEFAULT, chat.id, first, other.id)
    with pytest.raises(Conflict):
        await threads.fork(DEFAULT, chat.id, first, chat.id)
    into = SessionId(fresh("ses"))
    await threads.fork(DEFAULT, chat.id, second, into)
    with pytest.raises(Conflict):
        await threads.fork(DEFAULT, chat.id, first, into)
    assert await other.texts() == ["two", "done"]


@pytest.mark.feature("F78")
async def test_forks_and_forks_of_forks_are_found_from_their_root(
    chat: Chat, threads: SessionStore, owner: Owner
) -> None:
    chat = Chat(chat.store, owner)
    await chat.complete("a", "A")
    await chat.complete("b", "B")
    messages = [MessageId(id) for id in await ids(threads, chat)]
    first, second, inner = [SessionId(fresh("ses")) for _ in range(3)]
    await threads.fork(owner, chat.id, messages[2], first)
    await threads.fork(owner, chat.id, messages[3], second)
    await Chat(chat.store, owner, first).complete("c")
    await threads.fork(owner, first, messages[1], inner)
    forks = await threads.forks(owner, [chat.id, SessionId("none")])
    assert [(one.root, one.id, one.source, one.before) for one in forks] == [
        (chat.id, first, chat.id, messages[2]),
        (chat.id, second, chat.id, messages[3]),
        (chat.id, inner, first, messages[1]),
    ]
    assert [one.id for one in await threads.forks(owner, [first])] == [inner]
    assert [one.is_busy for one in forks] == [False] * 3
    assert [one.id for one in (await threads.list(owner, roots=True)).sessions] == [chat.id]
    assert await threads.count(owner, count_max=9, roots=True) == 1
    assert await threads.count(owner, count_max=9) == 4
    assert await threads.origin(owner, chat.id) is None
    assert await threads.origin(owner, SessionId("none")) is None
    assert await threads.origin(owner, first) == ForkOrigin(chat.id, messages[2], 2)
    assert await threads.origin(owner, inner) == ForkOrigin(first, messages[1], 1)


@pytest.mark.feature("F78")
async def test_a_fork_whose_source_is_deleted_is_a_root(
    chat: Chat, threads: SessionStore, owner: Owner
) -> None:
    """Even if the source's id is given again, to a fork of its own fork."""
    chat = Chat(chat.store, owner)
    await chat.complete("a", "A")
    message = MessageId((await ids(threads, chat))[1])
    into = SessionId(fresh("ses"))
    await threads.fork(owner, chat.id, message, into)
    await threads.delete(owner, chat.id)
    assert [one.id for one in (await threads.list(owner, roots=True)).sessions] == [into]
    assert await threads.origin(owner, into) is None
    first = MessageId((await threads.messages(owner, into)).messages[0]["id"])
    await threads.fork(owner, into, first, chat.id)
    assert [one.id for one in (await threads.list(owner, roots=True)).sessions] == [into]
    assert [one.id for one in await threads.forks(owner, [into])] == [chat.id]
    assert await threads.forks(owner, [chat.id]) == []


async def test_an_operators_fork_of_a_users_session_is_the_users(
    ports: DatabasePorts, threads: SessionStore
) -> None:
    chat = Chat(ports.run_store, ANN)
    await chat.complete("one")
    into = SessionId(fresh("ses"))
    await threads.fork(DEFAULT, chat.id, MessageId((await ids(threads, chat))[1]), into)
    assert await threads.get(BEN, into) is None
    assert await Chat(ports.run_store, ANN, into).texts() == ["one"]


async def test_rewinding_keeps_the_messages_up_to_one(chat: Chat, threads: SessionStore) -> None:
    await chat.complete("a", "A")
    run, approvals = await chat.wait_for_decision("b")
    kept = MessageId((await ids(threads, chat))[1])
    thread = await threads.rewind(DEFAULT, chat.id, kept)
    assert (thread.messages, thread.last_message) == (2, kept)
    assert await threads.rewind(DEFAULT, chat.id, kept) == thread
    assert await chat.texts() == ["a", "A"]
    assert await chat.state(run) is State.CANCELLED
    with pytest.raises(Conflict):
        await chat.decide(*approvals)
    await chat.complete("c", "C")
    assert await chat.texts() == ["a", "A", "c", "C"]


async def test_a_busy_session_is_not_rewound(chat: Chat, threads: SessionStore) -> None:
    await chat.complete("a", "A")
    await chat.send("b")
    before = await ids(threads, chat)
    with pytest.raises(Conflict):
        await threads.rewind(DEFAULT, chat.id, MessageId(before[0]))
    with pytest.raises(NotFound):
        await threads.rewind(DEFAULT, chat.id, MessageId("none"))
    assert await ids(threads, chat) == before


async def test_only_what_is_given_is_changed(chat: Chat, threads: SessionStore) -> None:
    await chat.send("one")
    at_first = await threads.get(DEFAULT, chat.id)
    assert at_first is not None
    assert (await threads.update(DEFAULT, chat.id, title="A")).title == "A"
    thread = await threads.update(DEFAULT, chat.id, metadata=["\u0000", None])
    assert (thread.title, thread.metadata) == ("A", ["\u0000", None])
    thread = await threads.update(DEFAULT, chat.id, title=None)
    assert (thread.title, thread.metadata) == (None, ["\u0000", None])
    assert await threads.update(DEFAULT, chat.id, metadata=None) == at_first
    with pytest.raises(Invalid):
        await threads.update(DEFAULT, chat.id, title="\u0000")


async def test_a_deleted_session_leaves_nothing_but_the_names_of_logs_to_purge(
    chat: Chat, threads: SessionStore, ports: DatabasePorts
) -> None:
    ended = await chat.complete("one")
    run, approvals = await chat.wait_for_decision("two")
    busy = (await chat.claim(await chat.send("three"))).run
    assert await threads.delete(DEFAULT, chat.id) == [ended.id, run.id, busy.id]
    assert await threads.delete(DEFAULT, chat.id) is None
    assert await threads.get(DEFAULT, chat.id) is None
    assert await ports.run_store.run_summary(DEFAULT, run.id) is None
    assert await ports.run_store.claim(busy.request, "runner") is None
    with pytest.raises(NotFound):
        await chat.decide(*approvals)
    assert await ports.run_store.find_interrupted([busy.id]) == [busy.id]
    for fenced in (chat.end(busy), chat.suspend(busy), chat.ask(busy)):
        with pytest.raises(Fenced):
            await fenced
    due = await ports.run_store.logs_to_purge(1000)
    assert {ended.id, run.id, busy.id} <= set(due)
    await chat.complete("again")  # the id is free
    assert await chat.texts() == ["again", "done"]


async def test_a_log_is_purged_at_once_and_once_more_later(
    chat: Chat, threads: SessionStore, ports: DatabasePorts
) -> None:
    run = await chat.send("one")
    await threads.delete(DEFAULT, chat.id)
    assert len(await ports.run_store.logs_to_purge(1)) == 1
    await ports.run_store.mark_purged([run.id])
    await ports.run_store.mark_purged([run.id])  # another sweep was as fast
    assert run.id not in await ports.run_store.logs_to_purge(1000)
    await make_purges_due(ports)
    assert run.id in await ports.run_store.logs_to_purge(1000)
    await ports.run_store.mark_purged([run.id])
    await make_purges_due(ports)
    assert run.id not in await ports.run_store.logs_to_purge(1000)


async def test_a_forgotten_user_has_no_session_and_no_key(
    ports: DatabasePorts, threads: SessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rejoin_adapters.postgres.session_store._BATCH", (2, 1, 2**20))
    tenant = TenantId(fresh("ten"))
    ann, ben = Owner(tenant, UserId("ann")), Owner(tenant, UserId("ben"))
    keys = ports.api_keys
    for one in (ann, ben):
        for _ in range(4):
            await Chat(ports.run_store, one).complete("hello")
        await keys.create(
            ApiKeyRow(f"{tenant}-{one.user}", tenant, b"h", ["chat"], None, one.user, None, datetime.now(UTC))
        )
    assert await threads.delete_user(tenant, UserId("ann")) == 4
    assert await threads.delete_user(tenant, UserId("ann")) == 0
    assert (await threads.list(Owner(tenant))).sessions == (await threads.list(ben)).sessions
    assert len((await threads.list(ben)).sessions) == 4
    assert [row.user for row in await keys.list(tenant)] == ["ben"]


type Ask = Callable[[SessionStore, Owner, SessionId, MessageId], Awaitable[Any]]


async def origin_of_anns_fork(
    threads: SessionStore, owner: Owner, session: SessionId, message: MessageId
) -> Any:
    into = SessionId(fresh("ses"))
    with suppress(NotFound):
        await threads.fork(ANN, session, message, into)
    return await threads.origin(owner, into)


METHODS: dict[str, Ask] = {
    "list": lambda threads, owner, _, __: threads.list(owner),
    "search": lambda threads, owner, _, __: threads.search(owner, SessionFilter()),
    "count": lambda threads, owner, _, __: threads.count(owner, count_max=9),
    "openings": lambda threads, owner, session, _: threads.openings(owner, [session]),
    "forks": lambda threads, owner, session, _: threads.forks(owner, [session]),
    "origin": origin_of_anns_fork,
    "get": lambda threads, owner, session, _: threads.get(owner, session),
    "messages": lambda threads, owner, session, _: threads.messages(owner, session),
    "runs": lambda threads, owner, session, _: threads.runs(owner, session),
    "usage": lambda threads, owner, session, _: threads.usage(owner, session),
    "fork": lambda threads, owner, session, message: threads.fork(
        owner, session, message, SessionId(fresh("ses"))
    ),
    "rewind": lambda threads, owner, session, message: threads.rewind(owner, session, message),
    "update": lambda threads, owner, session, _: threads.update(owner, session, title="mine"),
    "delete": lambda threads, owner, session, _: threads.delete(owner, session),
}


async def outcome(answer: Awaitable[Any]) -> Any:
    try:
        return await answer
    except NotFound:
        return NotFound


def test_every_method_with_an_owner_is_asked_below() -> None:
    methods = inspect.getmembers(SessionStore, inspect.isfunction)
    assert {name for name, one in methods if "owner" in inspect.signature(one).parameters} == set(METHODS)


@pytest.mark.feature("F40")
@pytest.mark.parametrize("stranger", [OTHER, BEN, Owner(OTHER.tenant, ANN.user)], ids=str)
@pytest.mark.parametrize("ask", METHODS.values(), ids=METHODS)
async def test_a_stranger_learns_what_he_would_of_an_id_that_is_nobodys(
    ports: DatabasePorts, threads: SessionStore, ask: Ask, stranger: Owner
) -> None:
    chat = Chat(ports.run_store, ANN)
    await chat.complete("secret")
    message = MessageId((await ids(threads, chat))[1])
    before: SessionSummary | None = await threads.get(ANN, chat.id)
    learned = await outcome(ask(threads, stranger, chat.id, message))
    assert learned == await outcome(ask(threads, stranger, SessionId("none"), message))
    assert chat.id not in repr(learned)
    assert await threads.get(ANN, chat.id) == before
    assert await outcome(ask(threads, ANN, chat.id, message)) not in (NotFound, None)


async def test_sessions_that_have_not_changed_for_long_are_deleted_unless_they_are_busy(
    ports: DatabasePorts, threads: SessionStore, owner: Owner
) -> None:
    ended, waiting, busy = (Chat(ports.run_store, owner) for _ in range(3))
    await ended.complete("one")
    await waiting.wait_for_decision("one")
    await busy.send("one")
    while (await threads.delete_untouched(3600)).more:
        pass
    assert len((await threads.list(owner)).sessions) == 3
    await set_updated_at(ports, owner, datetime.now(UTC) - timedelta(hours=2))
    assert (await threads.delete_untouched(3600)).sessions == 2
    assert [session.id for session in (await threads.list(owner)).sessions] == [busy.id]
