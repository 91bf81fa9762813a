"""`FileStore`, adapter and double: a file is kept while a message refers to it. One request at a time."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.files.file_store import JetStreamFileStore, PostgresFileIndex
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.memory.database.files import MemoryFileStore
from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.ports.files import FileReference, FileStore, StoredFile
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore
from rejoin_adapters.store_types import Limits, Owner, Run, Submit, UserMessage
from rejoin_protocol import file_ids
from rejoin_protocol.errors import Limited
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import TenantId, UserId
from tests.support.data.database_ports import DatabasePorts
from tests.support.data.store_session import Chat, fresh

pytest_plugins = ("tests.support.data.store_fixtures",)

PNG = "image/png"
LARGE = bytes(range(256)) * 3_000
"""Several chunks."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def files(ports: DatabasePorts, nats_url: str) -> AsyncIterator[FileStore]:
    if isinstance(ports.run_store, MemoryRunStore):
        yield MemoryFileStore(ports.run_store.database)
        return
    assert isinstance(ports.run_store, PostgresRunStore)
    async with nats_connection.connect(nats_url, "files") as connection:
        yield JetStreamFileStore(JetStreamChunkStore(connection), PostgresFileIndex(ports.run_store.database))


@pytest.fixture
def owner() -> Owner:
    """A user of a tenant that no other test has."""
    return Owner(TenantId(fresh("ten")), UserId("ann"))


@pytest.fixture
def chat(ports: DatabasePorts, owner: Owner) -> Chat:
    return Chat(ports.run_store, owner)


async def put(files: FileStore, owner: Owner, data: bytes = b"a cat") -> FileId:
    return await files.put(owner.tenant, owner.user, data, PNG)


async def send(chat: Chat, *ids: FileId) -> Run:
    """Send a message that refers to these files."""
    parts = [{"type": "file", "mediaType": PNG, "url": file_ids.file_url(id)} for id in ids]
    message: dict[str, Any] = {"id": fresh("msg"), "role": "user", "parts": parts}
    return (await chat.admit(Submit(UserMessage(message, message["id"].encode())))).run


async def there(files: FileStore, owner: Owner, id: FileId) -> bool:
    return await files.get(owner.tenant, id) is not None


@pytest.mark.parametrize("data", [b"", b"a cat", LARGE], ids=["empty", "small", "large"])
async def test_a_file_comes_back_whole_and_chunk_by_chunk(
    files: FileStore, owner: Owner, data: bytes
) -> None:
    id = await put(files, owner, data)
    assert await put(files, owner, data) == id
    assert await files.get(owner.tenant, id) == StoredFile(data, PNG)
    opened = await files.open(owner.tenant, id)
    assert opened is not None
    assert (opened.size_bytes, opened.media_type) == (len(data), PNG)
    assert b"".join([chunk async for chunk in opened.chunks]) == data
    other = TenantId(fresh("ten"))
    assert (await files.get(other, id), await files.open(other, id)) == (None, None)
    assert not await files.touch(other, id)


async def test_a_tenant_has_so_many_bytes_of_files_and_what_is_deleted_makes_room(
    files: FileStore, ports: DatabasePorts, owner: Owner
) -> None:
    await ports.tenants.set_limits(owner.tenant, Limits(file_bytes_max=250))
    first = await put(files, owner, b"1" * 100)
    await put(files, owner, b"2" * 150)
    with pytest.raises(Limited, match="bytes of files"):
        await put(files, owner, b"3")
    assert await put(files, owner, b"1" * 100) == first
    await files.sweep(0)
    await put(files, owner, b"3")


async def test_what_is_edited_or_rewound_away_goes_too(
    files: FileStore, ports: DatabasePorts, chat: Chat, owner: Owner
) -> None:
    id = await put(files, owner)
    run = await send(chat, id)
    await chat.end((await chat.claim(run)).run)
    await chat.complete("second")
    await files.sweep(0)
    assert await there(files, owner, id)
    threads = ports.session_store
    first = (await threads.messages(owner, chat.id)).messages[0]["id"]
    edited = {"id": first, "role": "user", "parts": [{"type": "text", "text": "never mind"}]}
    await chat.admit(Submit(UserMessage(edited, b"edited"), edit=True))
    await files.sweep(0)
    assert not await there(files, owner, id)


async def test_what_was_stored_for_a_request_that_was_refused_goes_after_a_while(
    files: FileStore, owner: Owner
) -> None:
    """And not before: the message that names it may be on its way."""
    id = await put(files, owner)
    await files.sweep()
    assert await there(files, owner, id)
    await files.sweep(0)
    assert not await there(files, owner, id)
    assert not await files.touch(owner.tenant, id)


async def test_a_file_that_a_model_made_stays_although_its_answer_names_it_much_later(
    files: FileStore, ports: DatabasePorts, chat: Chat, owner: Owner
) -> None:
    run = (await chat.claim(await chat.send("paint"))).run
    id = await files.put(owner.tenant, owner.user, b"painted", PNG, FileReference(run.session, run.answer))
    await files.sweep(0)
    assert await there(files, owner, id)
    await ports.session_store.delete(owner, chat.id)
    await files.sweep(0)
    assert not await there(files, owner, id)


async def test_another_users_file_is_not_held_by_naming_it(
    files: FileStore, ports: DatabasePorts, owner: Owner
) -> None:
    id = await put(files, owner)
    await send(Chat(ports.run_store, Owner(owner.tenant, UserId("ben"))), id)
    await files.sweep(0)
    assert not await there(files, owner, id)


async def test_a_tenants_file_in_a_users_session_is_held(
    files: FileStore, ports: DatabasePorts, owner: Owner
) -> None:
    """A credential without a user has uploaded the file."""
    chat, everybody = Chat(ports.run_store, owner), Owner(owner.tenant)
    await chat.complete("hello")
    id = await put(files, everybody)
    await send(Chat(ports.run_store, everybody, chat.id), id)
    await files.sweep(0)
    assert await there(files, owner, id)
