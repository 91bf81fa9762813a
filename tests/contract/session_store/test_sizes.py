"""`RunStore` and `SessionStore`: how large a session may be, and what is read of one at a time."""

import asyncio

import pytest

from rejoin_adapters.history_bounds import HistoryBounds
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.store_types import Limits, Owner, Regenerate, WhenBusy
from rejoin_protocol.errors import Conflict, Limited
from rejoin_protocol.events.fold import Part
from rejoin_protocol.ids import MessageId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from rejoin_protocol.limits import KIB, MIB, PAGE_BYTES_MAX
from rejoin_protocol.request_options import RequestOptions
from rejoin_protocol.request_tools import RequestTool
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import DEFAULT, Chat, fresh, text_of, user

pytest_plugins = ("tests.support.data.store_fixtures",)


async def limited(ports: DatabasePorts, user: str | None = None, **limits: int) -> Owner:
    tenant = TenantId(fresh("ten"))
    await ports.tenants.set_limits(tenant, Limits(**limits))
    return Owner(tenant, UserId(user) if user else None)


async def test_a_session_takes_no_message_beyond_its_bytes_and_those_that_go_make_room(
    ports: DatabasePorts,
) -> None:
    chat = Chat(ports.run_store, await limited(ports, session_bytes_max=10 * KIB))
    first = await chat.complete("a" * 4 * KIB)
    second = await chat.complete("b" * 4 * KIB)
    with pytest.raises(Conflict, match=r"would have \d+ bytes of messages, and has at most 10240"):
        await chat.send("c" * 4 * KIB)
    assert len(await chat.texts()) == 4, "what is refused leaves nothing behind"
    assert second.user_message is not None
    await chat.submit("d" * 4 * KIB, second.user_message, edit=True)
    await ports.session_store.delete(chat.owner, chat.id)
    assert first.state is not None
    assert (await chat.send("e" * 8 * KIB)).ready, "a new session under the same id begins with nothing"


async def test_an_answer_is_stored_however_large_its_session_is(ports: DatabasePorts) -> None:
    chat = Chat(ports.run_store, await limited(ports, session_bytes_max=1 * KIB))
    await chat.complete("short", "x" * 4 * KIB)
    assert [len(text) for text in await chat.texts()] == [5, 4 * KIB]
    with pytest.raises(Conflict, match="begin a new session"):
        await chat.send("again")


async def test_imports_count_too(ports: DatabasePorts) -> None:
    chat = Chat(ports.run_store, await limited(ports, session_bytes_max=4 * KIB))
    with pytest.raises(Conflict, match="bytes of messages"):
        await chat.submit("now", imports=[user("x" * 3 * KIB), user("y" * 3 * KIB)])
    assert await ports.run_store.history(chat.owner, chat.id) is None


def tools_of(size: int) -> list[RequestTool]:
    return [RequestTool("locate", "x" * size, {"type": "object"})]


@pytest.mark.feature("F103", "F104")
async def test_the_tools_of_requests_count_until_their_runs_have_ended(ports: DatabasePorts) -> None:
    """So runs that wait hold no more than the session may have, however many they are."""
    chat = Chat(ports.run_store, await limited(ports, session_bytes_max=10 * KIB))
    waiting = (await chat.claim((await chat.submit("one", request_tools=tools_of(4 * KIB))).run)).run
    await chat.ask(waiting)
    await chat.suspend(waiting)
    queued = (await chat.submit("two", id="m", request_tools=tools_of(4 * KIB))).run
    too_large = r"would have \d+ bytes of messages.* has at most 10240"
    with pytest.raises(Conflict, match=too_large):
        await chat.submit("three", request_tools=tools_of(4 * KIB))
    with pytest.raises(Conflict, match=too_large):
        await chat.admit(Regenerate(MessageId("m")), WhenBusy.INTERRUPT, request_tools=tools_of(8 * KIB))
    assert await chat.texts() == ["one", "may I?", "two"], "what is refused leaves nothing behind"
    await chat.end((await chat.claim(queued)).run)
    await chat.submit("three", request_tools=tools_of(4 * KIB))


@pytest.mark.feature("F103", "F104")
async def test_the_tools_of_requests_count_towards_the_text_of_a_tenant(ports: DatabasePorts) -> None:
    chat = Chat(ports.run_store, await limited(ports, text_bytes_max=4 * KIB))
    run = (await chat.claim((await chat.submit("one", request_tools=tools_of(4 * KIB))).run)).run

    async def fork() -> None:
        into = SessionId(fresh("ses"))
        await ports.session_store.fork(chat.owner, chat.id, MessageId(run.answer), into)

    with pytest.raises(Limited, match="bytes of text"):
        await fork()
    await chat.end(run)
    await fork()


async def test_the_options_of_requests_count_as_their_tools(ports: DatabasePorts) -> None:
    chat = Chat(ports.run_store, await limited(ports, session_bytes_max=10 * KIB))
    options = RequestOptions(instructions="x" * 6 * KIB)
    run = (await chat.claim((await chat.submit("one", request_options=options)).run)).run
    with pytest.raises(Conflict, match=r"would have \d+ bytes of messages.* has at most 10240"):
        await chat.submit("two", request_options=options)
    await chat.end(run)
    await chat.submit("two", request_options=options)


async def test_a_claim_has_the_newest_turns_that_fit_and_at_least_the_question(ports: DatabasePorts) -> None:
    chat = Chat(ports.run_store)
    for number in range(4):
        await chat.complete(f"{number}" + "x" * 1_000, "y" * 1_000)
    run = await chat.send("now")
    whole = await ports.run_store.claim(run.request, "runner")
    assert whole is not None
    assert (len(whole.history), whole.history_cut) == (9, False)
    some = await ports.run_store.claim(run.request, "runner", HistoryBounds(bytes_max=4_000))
    assert some is not None
    assert [text_of(message)[:3] for message in some.history] == ["3xx", "yyy", "now"]
    assert some.history_cut
    one = await ports.run_store.claim(run.request, "runner", HistoryBounds(bytes_max=1))
    assert one is not None
    assert [text_of(message) for message in one.history] == ["now"]


async def test_a_claim_has_the_newest_turn_whole_even_if_its_last_messages_alone_are_too_large(
    ports: DatabasePorts,
) -> None:
    chat = Chat(ports.run_store)
    turns = [
        ("user", "old"),
        ("assistant", "older"),
        ("user", "asked"),
        ("assistant", "one"),
        ("assistant", "two"),
    ]
    imports = [{"id": id, "role": role, "parts": [{"type": "text", "text": id}]} for role, id in turns]
    first = await chat.submit("now", imports=imports)
    await chat.end((await chat.claim(first.run)).run, "new")
    run = await chat.regenerate("two")
    claim = await ports.run_store.claim(run.request, "runner", HistoryBounds(bytes_max=1))
    assert claim is not None
    assert [text_of(message) for message in claim.history] == ["asked", "one"]
    assert claim.history_cut


async def test_a_large_history_is_loaded_apart_from_its_claim(ports: DatabasePorts) -> None:
    chat = Chat(ports.run_store)
    await chat.complete("one", "x" * 1_000)
    run = await chat.send("two")
    claim = await ports.run_store.claim(run.request, "runner", HistoryBounds(inline_bytes_max=500))
    assert claim is not None
    assert claim.history_bytes > 1_000
    loaded = await ports.run_store.load_history(claim)
    assert [text_of(message)[:3] for message in loaded.history] == ["one", "xxx", "two"]
    again = await ports.run_store.claim(run.request, "runner", HistoryBounds(inline_bytes_max=5_000))
    assert again is not None
    assert list(again.history) == list(loaded.history)
    assert await ports.run_store.load_history(again) == again


async def test_a_history_is_read_page_by_page(ports: DatabasePorts) -> None:
    chat = Chat(ports.run_store)
    for number in range(3):
        await chat.complete(f"{number}" + "x" * 1_000, "y" * 1_000)
    texts, after, pages = [], -1, 0
    while True:
        page = await ports.run_store.history(DEFAULT, chat.id, after=after, bytes_max=2_500)
        assert page is not None
        texts += [text_of(message)[:1] for message in page.messages]
        pages += 1
        if page.next is None:
            break
        after = page.next
    assert (texts, pages) == (["0", "y", "1", "y", "2", "y"], 3)
    assert await ports.run_store.history(DEFAULT, SessionId("none"), after=7) is None


async def test_a_page_of_large_messages_ends_early_and_the_next_one_goes_on(ports: DatabasePorts) -> None:
    chat, each = Chat(ports.run_store), PAGE_BYTES_MAX // 4
    for number in range(5):
        await chat.complete(f"{number}" + "x" * each, "short")
    last = (await chat.send("last")).answer
    seen: list[str] = []
    before = None
    while True:
        page = await ports.session_store.messages(chat.owner, chat.id, limit=100, before=before)
        assert sum(len(text_of(message)) for message in page.messages) <= PAGE_BYTES_MAX
        assert len(page.times) == len(page.messages)
        seen = [text_of(message)[:1] for message in page.messages] + seen
        if page.next is None:
            break
        before = page.next
    assert seen == [*"0s1s2s3s4s", "l"]
    earlier = await ports.run_store.messages_before(chat.owner, chat.id, last, limit=100)
    assert earlier is not None
    assert (len(earlier.messages), earlier.more) == (8, True)


async def test_a_fork_is_refused_while_the_texts_of_its_user_or_tenant_are_too_large(
    ports: DatabasePorts,
) -> None:
    """The id of the fork stays free."""
    for names in ({"text_bytes_max": 5 * KIB}, {"user_text_bytes_max": 5 * KIB}):
        chat = Chat(ports.run_store, await limited(ports, "ann", **names))
        run = await chat.complete("x" * 3 * KIB)
        into = SessionId(fresh("ses"))
        fork = await ports.session_store.fork(chat.owner, chat.id, MessageId(run.answer), into)
        assert fork.messages == 1
        with pytest.raises(Limited, match="bytes of text"):
            await ports.session_store.fork(
                chat.owner, chat.id, MessageId(run.answer), SessionId(fresh("ses"))
            )
        assert (await ports.session_store.fork(chat.owner, chat.id, MessageId(run.answer), into)).id == into
        await ports.session_store.delete(chat.owner, into)
        await ports.session_store.fork(chat.owner, chat.id, MessageId(run.answer), into)


async def sizes(postgres: PostgresRunStore, chat: Chat) -> tuple[int, int]:
    """The size of the session as it is counted, and as it is."""
    query = """
        select json_build_array(size_bytes, (
          select sum(octet_length(body::text)) from messages where session_id = sessions.id) + (
          select coalesce(sum(request_bytes(runs)), 0) from runs where session_id = sessions.id))
        from sessions where id = $1
    """
    return await postgres.database.fetch_json(tuple[int, int], query, chat.id)


async def test_the_size_of_a_session_is_that_of_its_messages_whatever_happens(
    postgres: PostgresRunStore,
) -> None:
    chat = Chat(postgres)
    first = await chat.complete("ä" * 1_000)
    await chat.complete("y" * 1_000)
    await chat.regenerate()
    await chat.interrupt()
    await chat.submit("z" * 10, first.user_message, edit=True)
    counted, real = await sizes(postgres, chat)
    assert counted == real
    assert 0 < counted < MIB


async def test_it_is_also_that_of_the_tools_of_its_runs(postgres: PostgresRunStore) -> None:
    chat = Chat(postgres)
    first = await chat.complete("one")
    waiting = (await chat.claim((await chat.submit("two", request_tools=tools_of(KIB))).run)).run
    await chat.ask(waiting)
    await chat.suspend(waiting)
    counted, real = await sizes(postgres, chat)
    assert (counted, counted > KIB) == (real, True)
    edited = (await chat.submit("1", first.user_message, edit=True, request_tools=tools_of(2 * KIB))).run
    assert await chat.state(waiting) is State.CANCELLED
    counted, real = await sizes(postgres, chat)
    assert (counted, 2 * KIB < counted < 3 * KIB) == (real, True)
    await chat.end((await chat.claim(edited)).run, state=State.FAILED)
    counted, real = await sizes(postgres, chat)
    assert (counted, counted < KIB) == (real, True)


async def test_it_loses_the_tools_of_a_message_that_steered(postgres: PostgresRunStore) -> None:
    """Such a message is a run of its own until the answer has it; then the run is deleted."""
    chat = Chat(postgres)
    run = (await chat.claim(await chat.send("one"))).run
    steering = await chat.submit("two", when_busy=WhenBusy.STEER, request_tools=tools_of(KIB))
    counted, real = await sizes(postgres, chat)
    assert (counted, counted > KIB) == (real, True)
    answer = chat.answer(run, "done")
    part: Part = {"type": "steering-message", "id": steering.run.user_message, "parts": []}
    await chat.store.end(
        run.id, run.attempt, State.COMPLETED, answer | {"parts": [*answer["parts"], part]}, None
    )
    counted, real = await sizes(postgres, chat)
    assert (counted, counted < KIB) == (real, True)


async def test_a_session_that_counts_too_many_bytes_can_be_deleted(
    postgres: PostgresRunStore,
) -> None:
    """Deletion in batches ends by what there is, not by what is counted."""
    owner = Owner(TenantId(fresh("ten")), UserId("ann"))
    chat = Chat(postgres, owner)
    await chat.complete("one")
    await postgres.database.fetch_text(
        "update sessions set size_bytes = $2 where id = $1 returning 'true'", chat.id, 100 * MIB
    )
    async with asyncio.timeout(30):
        assert await PostgresSessionStore(postgres.database).delete_user(owner.tenant, UserId("ann")) == 1
