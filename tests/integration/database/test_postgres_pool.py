"""The connection pool, with a proxy that counts round trips and cuts connections."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
import structlog

from rejoin_adapters.actor import Actor, act_as
from rejoin_adapters.postgres.pool import open_database
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore, open_run_store
from rejoin_adapters.store_types import Decision, Regenerate
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable
from rejoin_protocol.ids import SessionId
from tests.support.data.store_session import DEFAULT, Chat
from tests.support.system.databases import migrated_database, statements_wait_for_lock
from tests.support.system.observation import wait_until


class Wire:
    """A proxy before a server. It counts a round trip when the client sends after the server has sent."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._answered = True
        self.port = 0
        self.round_trips = 0

    async def open(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Connections that are open stay open."""
        assert self._listener is not None
        self._listener.close()

    def cut(self) -> None:
        """Connections that are open are reset."""
        for writer in self._writers:
            writer.transport.abort()

    def say_goodbye(self) -> None:
        """Send the message that a server sends to idle connections at its shutdown. The connections stay
        open.
        """
        fields = b"SFATAL\0VFATAL\0C57P01\0Mgoodbye\0\0"
        for writer in self._clients:
            writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, server_writer}
        self._clients.add(writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, server_writer, from_client=True))
                group.create_task(self._pump(server_reader, writer, from_client=False))
        finally:
            self._writers -= {writer, server_writer}
            self._clients.discard(writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                self.round_trips += from_client and self._answered
                self._answered = not from_client
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def wire_to(database_url: str) -> AsyncIterator[tuple[Wire, str]]:
    address = urlsplit(database_url)
    wire = Wire(address.hostname or "127.0.0.1", address.port or 5432)
    await wire.open()
    user = address.netloc.rpartition("@")[0]
    try:
        yield wire, address._replace(netloc=f"{user}@127.0.0.1:{wire.port}").geturl()
    finally:
        wire.cut()
        await wire.refuse()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def migrated(database_url: str) -> AsyncIterator[str]:
    async with migrated_database(database_url) as url:
        yield url


@pytest_asyncio.fixture
async def wired(migrated: str) -> AsyncIterator[tuple[Wire, PostgresRunStore]]:
    async with (
        wire_to(migrated) as (wire, url),
        await open_run_store(url, pool_max=3, acquire_timeout_s=0.5) as store,
    ):
        yield wire, store


async def test_every_operation_is_one_round_trip(wired: tuple[Wire, PostgresRunStore]) -> None:
    wire, store = wired

    async def cost[T](operation: Awaitable[T]) -> T:
        before = wire.round_trips
        result = await operation
        costs.append(wire.round_trips - before)
        return result

    costs: list[int] = []
    for _ in range(2):  # a connection prepares each statement once, in round trips that are not counted here
        costs.clear()
        chat = Chat(store)
        run = await cost(chat.send("one"))
        run = (await cost(chat.claim(run))).run
        await cost(chat.send("two"))
        approvals = await cost(chat.ask(run))
        await cost(store.pending_approvals(DEFAULT, chat.id))
        await cost(chat.suspend(run))
        decided = await cost(store.decide(DEFAULT, chat.id, [Decision(approvals[0], approved=True)]))
        await cost(store.current_run(DEFAULT, chat.id))
        await cost(store.history(DEFAULT, chat.id))
        await cost(store.find_run(DEFAULT, decided.run.id))
        await cost(store.recover_stranded(0))
        await cost(store.ping())
        other = Chat(store)
        run = (await cost(other.claim(await cost(other.send("one"))))).run
        await cost(other.end(run))
        await cost(other.admit(Regenerate()))
    assert costs == [1] * len(costs)


async def test_a_dead_connection_is_not_noticed(wired: tuple[Wire, PostgresRunStore]) -> None:
    wire, store = wired
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(store.ping())
    wire.cut()
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(store.ping())


async def test_a_connection_that_the_server_ends_is_not_noticed(migrated: str) -> None:
    async with await open_run_store(migrated, pool_max=1) as store:
        await store.ping()
        other = await asyncpg.connect(migrated)
        await other.execute("""
            select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid()
        """)
        await other.close()
        await store.ping()


async def test_a_goodbye_to_an_idle_connection_is_not_noticed(
    migrated: str, wired: tuple[Wire, PostgresRunStore]
) -> None:
    wire, store = wired
    await store.ping()
    wire.say_goodbye()
    assert await statements_wait_for_lock(migrated, 0)  # a round trip, by whose end it has arrived
    await store.ping()


async def test_a_send_whose_answer_is_lost_is_one_send(migrated: str) -> None:
    async with wire_to(migrated) as (wire, url), await open_run_store(url, pool_max=1) as store:
        chat = Chat(store)
        blocker = await asyncpg.connect(migrated)
        transaction = blocker.transaction()
        await chat.complete("one")
        await transaction.start()
        await blocker.execute("select from sessions where id = $1 for update", chat.id)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(chat.submit("two"))
            await wait_until(lambda: statements_wait_for_lock(migrated))
            wire.cut()  # the server does not notice, and will do it
            await wait_until(lambda: statements_wait_for_lock(migrated, 2))
            await transaction.rollback()
        await blocker.close()
        assert task.result().created
        assert await chat.texts() == ["one", "done", "two"]


async def test_a_server_that_is_away_is_unavailable_until_it_is_back(
    wired: tuple[Wire, PostgresRunStore],
) -> None:
    wire, store = wired
    await wire.refuse()
    wire.cut()
    with pytest.raises(Unavailable):
        await store.ping()
    with pytest.raises(Unavailable):
        await Chat(store).send("one")
    await wire.open()
    await store.ping()


async def test_a_pool_without_a_free_connection_is_unavailable(migrated: str) -> None:
    async with await open_run_store(
        migrated, pool_max=1, acquire_timeout_s=0.05, command_timeout_s=0.3
    ) as store:
        chat = Chat(store)
        await chat.send("one")
        blocker = await asyncpg.connect(migrated)
        async with blocker.transaction():
            await blocker.execute("select from sessions where id = $1 for update", chat.id)
            async with asyncio.TaskGroup() as group:
                slow = group.create_task(unavailable(chat.send("two")))
                await wait_until(lambda: statements_wait_for_lock(migrated))
                assert await unavailable(store.ping())
                assert await slow
            await wait_until(
                lambda: statements_wait_for_lock(migrated, 0), "the end of what nobody waits for"
            )
        await blocker.close()
        await wait_until(lambda: not_unavailable(store.ping()))
        assert await chat.texts() == ["one"]


async def test_statements_that_wait_for_a_connection_get_it_without_the_pool(
    migrated: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncpg's pool takes more time to release and acquire a connection than the driver for a statement."""
    acquired, acquire = 0, asyncpg.Pool.acquire

    def counting(*args: Any, **options: Any) -> Any:
        nonlocal acquired
        acquired += 1
        return acquire(*args, **options)

    monkeypatch.setattr(asyncpg.Pool, "acquire", counting)
    async with await open_run_store(migrated, pool_max=3) as store:
        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(store.ping())
        assert acquired == 3


async def test_who_stops_waiting_for_a_connection_leaves_it_to_the_others(migrated: str) -> None:
    async with await open_database(migrated, pool_max=1) as database:
        await database.fetch_text("select 'open'")
        working = asyncio.create_task(database.fetch_text("select 'done' from pg_sleep(0.2)"))
        waiting = [asyncio.create_task(database.fetch_text("select 'next'")) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        assert await working == "done"
        waiting[1].cancel()  # in the moment in which it may have got its turn
        assert await waiting[2] == "next"
        assert await database.fetch_text("select 'later'") == "later"


async def test_connecting_waits_for_the_server_and_logs_it(migrated: str) -> None:
    async with wire_to(migrated) as (wire, url):
        await wire.refuse()
        with structlog.testing.capture_logs() as logs:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(open_run_store(url))
                await wait_until(lambda: told(logs))
                await wire.open()
        async with task.result() as store:
            await store.ping()
        line = next(line for line in logs if line["event"] == "waiting_for_database")
        assert line["host"] == f"127.0.0.1:{wire.port}"


async def test_a_wrong_database_is_not_waited_for(migrated: str) -> None:
    with pytest.raises(RejoinError, match="it has no database of the name in its URL"):
        await open_run_store(urlsplit(migrated)._replace(path="/nowhere").geturl())


@pytest.mark.parametrize("id", ["\0", "\udc84"], ids=ascii)
async def test_an_id_that_cannot_be_stored_is_invalid(migrated: str, id: str) -> None:
    async with await open_run_store(migrated) as store:
        with pytest.raises(Invalid, match="a character that cannot be stored"):
            await store.history(DEFAULT, SessionId(id))
        await store.ping()


# ---------------------------------------------------------------------------------------------- conditions


def told(lines: list[structlog.typing.EventDict]) -> bool:
    return any(line["event"] == "waiting_for_database" for line in lines)


async def unavailable(operation: Awaitable[object]) -> bool:
    try:
        await operation
    except Unavailable:
        return True
    return False


async def not_unavailable(operation: Awaitable[object]) -> bool:
    return not await unavailable(operation)


async def test_a_change_by_an_actor_uses_the_connection_that_is_kept(database_url: str) -> None:
    """All connections of a pool are kept between statements; a change must not wait for one more."""
    async with await open_database(
        database_url, pool_max=1, acquire_timeout_s=1, connect_timeout_s=5, command_timeout_s=5
    ) as database:
        assert await database.fetch_text("select 'kept'") == "kept"
        act_as(Actor("tester"))
        try:
            assert await database.fetch_text_as_actor("select current_setting('rejoin.actor')") == "tester"
        finally:
            act_as(None)
        assert await database.fetch_text("select 'kept'") == "kept"
