"""`FileStore` on real servers: no order of requests and sweeps deletes a file that is in use."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.files.file_store import CondemnedFile, JetStreamFileStore, PostgresFileIndex
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore, open_run_store
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.store_types import Limits, Owner, Run, Submit, UserMessage
from rejoin_protocol import file_ids
from rejoin_protocol.errors import Limited
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import MessageId, SessionId, TenantId, UserId
from rejoin_protocol.lifecycle import State
from tests.support.data.store_session import Chat, fresh
from tests.support.system.databases import migrated_database, statements_wait_for_lock
from tests.support.system.observation import wait_until

PNG = "image/png"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def connection(nats_url: str) -> AsyncIterator[NatsConnection]:
    async with nats_connection.connect(nats_url, "files") as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def url(database_url: str) -> AsyncIterator[str]:
    async with migrated_database(database_url) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def store(url: str) -> AsyncIterator[PostgresRunStore]:
    async with await open_run_store(url) as one:
        yield one


@pytest.fixture
def bytes_of(connection: NatsConnection) -> JetStreamChunkStore:
    return JetStreamChunkStore(connection)


@pytest.fixture
def rows(store: PostgresRunStore) -> PostgresFileIndex:
    return PostgresFileIndex(store.database)


@pytest.fixture
def files(bytes_of: JetStreamChunkStore, rows: PostgresFileIndex) -> JetStreamFileStore:
    return JetStreamFileStore(bytes_of, rows)


@pytest.fixture
def owner() -> Owner:
    """A user of a tenant that no other test has."""
    return Owner(TenantId(fresh("ten")), UserId("ann"))


@pytest.fixture
def chat(store: PostgresRunStore, owner: Owner) -> Chat:
    return Chat(store, owner)


async def put(files: JetStreamFileStore, owner: Owner, data: bytes = b"a cat") -> FileId:
    return await files.put(owner.tenant, owner.user, data, PNG)


def naming(*ids: FileId, role: str = "user") -> dict[str, Any]:
    parts = [{"type": "file", "mediaType": PNG, "url": file_ids.file_url(id)} for id in ids]
    return {"id": fresh("msg"), "role": role, "parts": parts}


async def send(chat: Chat, *ids: FileId, imports: Sequence[dict[str, Any]] = ()) -> Run:
    message = naming(*ids)
    ask = Submit(UserMessage(message, message["id"].encode()), imports=imports)
    return (await chat.admit(ask)).run


async def there(files: JetStreamFileStore, owner: Owner, id: FileId) -> bool:
    return await files.get(owner.tenant, id) is not None


async def total(url: str, owner: Owner) -> int:
    connection = await asyncpg.connect(url)
    try:
        query = "select coalesce(sum(size_bytes), 0)::bigint from {} where tenant_id = $1"
        counted, kept = [
            await connection.fetchval(query.format(table), owner.tenant) for table in ("files", "file_totals")
        ]
    finally:
        await connection.close()
    assert counted == kept
    return int(kept)


async def test_a_file_goes_with_the_last_message_that_names_it(
    files: JetStreamFileStore, store: PostgresRunStore, chat: Chat, owner: Owner, url: str
) -> None:
    """A sent one, one of an imported turn, one of an answer; and a fork holds them as well as the session."""
    sent, earlier, made = [await put(files, owner, data) for data in (b"sent", b"earlier", b"made")]
    run = (await chat.claim(await send(chat, sent, imports=[naming(earlier)]))).run
    answer = naming(made, role="assistant") | {"id": run.answer}
    await store.end(run.id, run.attempt, State.COMPLETED, answer, None)
    last, into = await chat.send("more"), SessionId(fresh("ses"))
    threads = PostgresSessionStore(store.database)
    await chat.claim(last)
    await threads.fork(
        owner, chat.id, MessageId((await threads.messages(owner, chat.id)).messages[-1]["id"]), into
    )
    for session in (chat.id, into):
        await files.sweep(0)
        assert [await there(files, owner, id) for id in (sent, earlier, made)] == [True] * 3
        await threads.delete(owner, session)
    await files.sweep(0)
    assert [await there(files, owner, id) for id in (sent, earlier, made)] == [False] * 3
    assert await total(url, owner) == 0


# ------------------------------------------------------------------------- a request and a sweep at once


async def condemned(
    rows: PostgresFileIndex, owner: Owner, age_s: float = 0, retry_s: float = 60
) -> list[CondemnedFile]:
    look = await rows.condemn(age_s, retry_s=retry_s)
    return [one for one in look.condemned if one.tenant == owner.tenant]


async def test_who_names_a_file_before_the_sweep_keeps_it(
    files: JetStreamFileStore, rows: PostgresFileIndex, chat: Chat, owner: Owner, url: str
) -> None:
    """Even while the touch is not yet committed: the sweep waits for it, looks again, and leaves the file."""
    id = await put(files, owner)
    other = await asyncpg.connect(url)
    try:
        async with other.transaction(), asyncio.TaskGroup() as group:
            aged = "update files set touched_at = clock_timestamp() - interval '2 hours' where id = $1"
            await rows._database.fetch_text(aged, id)
            await rows._database.fetch_text(
                "update file_checks set since = clock_timestamp() - interval '2 hours' where file_id = $1", id
            )
            assert await other.fetchval("select touch_file($1, $2)", owner.tenant, id)
            sweep = group.create_task(condemned(rows, owner, 3600))
            await wait_until(lambda: statements_wait_for_lock(url), "a statement that waits for a lock")
            assert not sweep.done()
            await other.execute("commit; begin")
        assert sweep.result() == []
    finally:
        await other.close()
    await send(chat, id)
    await files.sweep(0)
    assert await there(files, owner, id)


async def test_who_names_a_file_behind_the_sweep_hears_that_it_is_gone(
    files: JetStreamFileStore, rows: PostgresFileIndex, owner: Owner
) -> None:
    id = await put(files, owner)
    [one] = await condemned(rows, owner)
    assert not await files.touch(owner.tenant, id)
    await rows.remove(one)
    assert not await files.touch(owner.tenant, id)


async def test_who_stores_a_file_behind_the_sweep_waits_until_it_is_gone_and_stores_it_again(
    files: JetStreamFileStore, bytes_of: JetStreamChunkStore, rows: PostgresFileIndex, owner: Owner
) -> None:
    id, end = await put(files, owner), await bytes_of.end()
    [one] = await condemned(rows, owner)
    async with asyncio.TaskGroup() as group:
        again = group.create_task(put(files, owner))
        await bytes_of.delete(owner.tenant, id, before=end)
        assert not again.done()
        await rows.remove(one)
    assert await there(files, owner, id)


async def test_a_sweep_that_was_asleep_takes_nothing_that_was_stored_since(
    files: JetStreamFileStore, bytes_of: JetStreamChunkStore, rows: PostgresFileIndex, owner: Owner, url: str
) -> None:
    """Another one has finished its work meanwhile, and the same file was stored again."""
    id, end = await put(files, owner), await bytes_of.end()
    [asleep] = await condemned(rows, owner)
    assert await condemned(rows, owner) == [], "it has a while to finish"
    [other] = await condemned(rows, owner, retry_s=0)
    await bytes_of.delete(owner.tenant, id, before=await bytes_of.end())
    await rows.remove(asleep)
    assert not await files.touch(owner.tenant, id), "it is the other one's by now"
    await rows.remove(other)
    await put(files, owner)
    await bytes_of.delete(owner.tenant, id, before=end)
    await rows.remove(asleep)
    assert await there(files, owner, id)
    assert await total(url, owner) == len(b"a cat")


async def test_many_at_once_lose_no_file_that_is_named(
    files: JetStreamFileStore, store: PostgresRunStore, owner: Owner, url: str
) -> None:
    """Sessions that share files come and go, and sweeps look at everything that was not touched just now."""
    threads = PostgresSessionStore(store.database)
    contents = [bytes([number]) * 100 for number in range(4)]

    async def live(turns: int) -> None:
        for _ in range(turns):
            chat = Chat(store, owner)
            ids = [await put(files, owner, data) for data in contents]
            await send(chat, *ids)
            for id in ids:
                assert await there(files, owner, id)
            await threads.delete(owner, chat.id)

    async def sweep() -> None:
        while True:
            await files.sweep(0.5)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        sweeps = [group.create_task(sweep()) for _ in range(2)]
        async with asyncio.TaskGroup() as lives:
            for _ in range(4):
                lives.create_task(live(8))
        for task in sweeps:
            task.cancel()
    await files.sweep(0)
    assert await total(url, owner) == 0


# --------------------------------------------------------------------------------------------- how many


async def test_a_tenant_has_so_many_bytes_of_files_and_no_more(
    files: JetStreamFileStore, store: PostgresRunStore, chat: Chat, owner: Owner, url: str
) -> None:
    """The same bytes count once, and deleted files do not count."""
    await PostgresTenants(store.database).set_limits(owner.tenant, Limits(file_bytes_max=250))
    first = await put(files, owner, b"1" * 100)
    await put(files, owner, b"2" * 150)
    with pytest.raises(Limited, match="bytes of files"):
        await put(files, owner, b"3")
    assert await put(files, owner, b"1" * 100) == first
    assert await total(url, owner) == 250
    await files.sweep(0)
    await put(files, owner, b"3")
    await send(chat, await put(files, owner, b"1" * 100))
    assert await total(url, owner) == 101


async def test_a_hundred_puts_at_once_do_not_pass_the_limit(
    files: JetStreamFileStore, store: PostgresRunStore, owner: Owner, url: str
) -> None:
    await PostgresTenants(store.database).set_limits(owner.tenant, Limits(file_bytes_max=1000))

    async def one(number: int) -> bool:
        try:
            await put(files, owner, number.to_bytes(100))
        except Limited:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(30)]
    assert sum(task.result() for task in tasks) == 10
    assert await total(url, owner) == 1000
