"""`JetStreamChunkStore`: files are content-addressed, complete or absent, and belong to one tenant."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from rejoin_adapters.files.chunk_store import CHUNK_BYTES, JetStreamChunkStore, _token
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import NatsConnection
from rejoin_adapters.ports.files import OpenFile, StoredFile
from rejoin_protocol import file_ids
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import TenantId, UserId

ANN, BOB = UserId("ann"), UserId("bob")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def connection(nats_url: str) -> AsyncIterator[NatsConnection]:
    async with nats_connection.connect(nats_url, "files") as one:
        yield one


@pytest.fixture
def files(connection: NatsConnection) -> JetStreamChunkStore:
    return JetStreamChunkStore(connection)


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(f"Ünïted. Tenants > {secrets.token_hex(4)}")


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def messages(connection: NatsConnection, tenant: TenantId, id: FileId) -> int:
    """How many chunks the broker has of a file."""
    ask = msgspec.json.encode({"subjects_filter": subjects.DEFAULT.file_chunks(_token(tenant), id)})
    answer = await connection.call_api(f"$JS.API.STREAM.INFO.{subjects.FILES}", ask)
    return len(msgspec.json.decode(answer)["state"].get("subjects") or {})


async def lose(connection: NatsConnection, tenant: TenantId, id: FileId, number: int) -> None:
    """Delete a chunk, as if the writer had crashed before it wrote this chunk."""
    ask = msgspec.json.encode({"filter": subjects.DEFAULT.file(_token(tenant), id, number)})
    await connection.call_api(f"$JS.API.STREAM.PURGE.{subjects.FILES}", ask)


async def take(opened: OpenFile, into: list[bytes]) -> None:
    """All that can be had."""
    async for chunk in opened.chunks:
        into.append(chunk)  # noqa: PERF401 - what came before it failed is kept


async def read(opened: OpenFile | None) -> StoredFile | None:
    """To its end."""
    if opened is None:
        return None
    chunks: list[bytes] = []
    await take(opened, chunks)
    data = b"".join(chunks)
    assert len(data) == opened.size_bytes
    return StoredFile(data, opened.media_type)


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * 1024 * 1024])
async def test_a_file_comes_back_as_it_was_put(
    files: JetStreamChunkStore, tenant: TenantId, size: int
) -> None:
    data = content(size)
    id = await files.put(tenant, ANN, data, "image/png")
    assert await files.get(tenant, id) == StoredFile(data, "image/png")
    assert await read(await files.open(tenant, id)) == StoredFile(data, "image/png")


async def test_a_reader_makes_the_broker_send_what_it_takes_and_no_more(
    connection: NatsConnection, files: JetStreamChunkStore, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of chunks on their way to a slow reader is bounded."""
    id = await files.put(tenant, ANN, content(10 * 1024 * 1024), "image/png")
    ask, ask_many, sent = connection.request, connection.request_many, 0

    def seen(*answers: RawMessage) -> None:
        nonlocal sent
        sent += sum(len(answer.data) for answer in answers)

    async def counted(subject: str, payload: bytes) -> RawMessage:
        answer = await ask(subject, payload)
        seen(answer)
        return answer

    async def counted_many(subject: str, payload: bytes) -> list[RawMessage]:
        answers = await ask_many(subject, payload)
        seen(*answers)
        return answers

    monkeypatch.setattr(connection, "request", counted)
    monkeypatch.setattr(connection, "request_many", counted_many)
    readers = [await files.open(tenant, id) for _ in range(20)]
    opening = sent
    assert opening == 20 * 3 * CHUNK_BYTES  # the first, the last, and one that says how many there are
    for fetched in (0, 1):  # the first is there already
        for reader in readers:
            assert reader is not None
            assert len(await anext(reader.chunks)) == CHUNK_BYTES
        assert sent - opening == 20 * fetched * CHUNK_BYTES
    for reader in readers:
        assert reader is not None
        await reader.chunks.aclose()


async def test_the_same_bytes_are_stored_once(
    connection: NatsConnection, files: JetStreamChunkStore, tenant: TenantId
) -> None:
    """Also by several writers at the same time, and by another process."""
    data = content(5 * CHUNK_BYTES + 7)
    other = JetStreamChunkStore(connection)
    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(one.put(tenant, ANN, data, "image/png")) for one in (files, other, files)]
    assert len({put.result() for put in puts}) == 1
    id = await files.put(tenant, ANN, data, "image/png")
    assert await messages(connection, tenant, id) == 6
    assert await files.get(tenant, id) == StoredFile(data, "image/png")


async def test_the_same_bytes_of_two_users_are_two_files(
    files: JetStreamChunkStore, tenant: TenantId
) -> None:
    anns, bobs = [await files.put(tenant, user, b"same", "image/png") for user in (ANN, BOB)]
    assert anns != bobs
    assert file_ids.is_visible_to(anns, ANN)
    assert not file_ids.is_visible_to(anns, BOB)


async def test_a_file_is_its_tenants_alone(files: JetStreamChunkStore, tenant: TenantId) -> None:
    id = await files.put(tenant, ANN, b"secret", "application/pdf")
    assert await files.get(TenantId(f"{tenant}2"), id) is None
    await files.delete(TenantId(f"{tenant}2"), id, before=await files.end())
    assert await files.get(tenant, id) is not None


async def test_a_file_that_was_never_put_is_not_there(files: JetStreamChunkStore, tenant: TenantId) -> None:
    assert await files.get(tenant, file_ids.file_id(ANN, b"nothing")) is None


async def test_what_is_deleted_is_gone_and_can_be_put_again(
    files: JetStreamChunkStore, tenant: TenantId
) -> None:
    data = content(2 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/webp")
    for _ in range(2):
        await files.delete(tenant, id, before=await files.end())
    assert await files.get(tenant, id) is None
    assert await files.put(tenant, ANN, data, "image/webp") == id
    assert await files.get(tenant, id) == StoredFile(data, "image/webp")


async def test_a_deletion_spares_what_was_stored_after_it_was_begun(
    connection: NatsConnection, files: JetStreamChunkStore, tenant: TenantId
) -> None:
    """As a sweep does that was asleep for a while."""
    data = content(2 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/webp")
    end = await files.end()
    await files.delete(tenant, id, before=end)
    assert await messages(connection, tenant, id) == 0
    await files.put(tenant, ANN, data, "image/webp")
    await files.delete(tenant, id, before=end)
    assert await files.get(tenant, id) == StoredFile(data, "image/webp")


async def test_a_file_of_which_a_chunk_is_missing_is_absent_until_it_is_put_again(
    connection: NatsConnection, files: JetStreamChunkStore, tenant: TenantId
) -> None:
    data = content(4 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/png")
    for number in range(4):
        await lose(connection, tenant, id, number)
        assert await files.get(tenant, id) is None
        assert await files.open(tenant, id) is None
        await files.put(tenant, ANN, data, "image/png")
        assert await files.get(tenant, id) == StoredFile(data, "image/png")
        assert await read(await files.open(tenant, id)) == StoredFile(data, "image/png")


async def test_bytes_that_are_not_the_files_are_never_returned(
    connection: NatsConnection, files: JetStreamChunkStore, tenant: TenantId
) -> None:
    id = file_ids.file_id(ANN, b"right")
    await connection.call_api(
        subjects.DEFAULT.file(_token(tenant), id, 0), b"wrong", headers={subjects.FILE: "1 image/png"}
    )
    assert await files.get(tenant, id) is None
    assert await files.open(tenant, id) is None


@pytest.mark.parametrize("wrong", [b"x" * CHUNK_BYTES, b"shorter", None], ids=["other", "shorter", "gone"])
async def test_a_file_that_turns_out_not_to_be_right_never_comes_to_its_end(
    connection: NatsConnection, files: JetStreamChunkStore, tenant: TenantId, wrong: bytes | None
) -> None:
    id = await files.put(tenant, ANN, content(3 * CHUNK_BYTES), "image/png")
    opened = await files.open(tenant, id)
    assert opened is not None
    await lose(connection, tenant, id, 1)
    if wrong is not None:
        subject = subjects.DEFAULT.file(_token(tenant), id, 1)
        await connection.call_api(subject, wrong, headers={subjects.FILE: "3 image/png"})
    received: list[bytes] = []
    with pytest.raises(Unavailable):
        await take(opened, received)
    assert len(received) == (2 if wrong == b"x" * CHUNK_BYTES else 1)


async def test_a_replica_that_is_behind_is_made_up_for_by_the_leader(
    files: JetStreamChunkStore, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(3 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/png")
    whole = await files.read_all(_token(tenant), id)

    async def behind(*_: object) -> dict[int, object]:
        return {1: whole[1]}

    monkeypatch.setattr(files, "read_all", behind)
    assert await files.get(tenant, id) == StoredFile(data, "image/png")


@pytest.mark.parametrize("has", [(), (0, 2), (1,)], ids=str)
async def test_a_replica_that_is_behind_keeps_no_reader_from_a_file(
    connection: NatsConnection,
    files: JetStreamChunkStore,
    tenant: TenantId,
    monkeypatch: pytest.MonkeyPatch,
    has: tuple[int, ...],
) -> None:
    """It has some of the chunks; the leader has all of them, or the file is not there."""
    data = content(3 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/png")
    ask, there = connection.request, {subjects.DEFAULT.file(_token(tenant), id, number) for number in has}
    missing = RawMessage(b"", b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")
    over = RawMessage(b"", b"NATS/1.0 204 EOB\r\nNats-Num-Pending: %d\r\n\r\n" % len(has), b"")

    async def behind(subject: str, payload: bytes, **more: Any) -> RawMessage:
        wanted = msgspec.json.decode(payload).get("last_by_subj")
        return missing if "DIRECT" in subject and wanted not in there else await ask(subject, payload, **more)

    async def few(*_: object) -> list[RawMessage]:
        return [over]

    monkeypatch.setattr(connection, "request", behind)
    monkeypatch.setattr(connection, "request_many", few)
    assert await read(await files.open(tenant, id)) == StoredFile(data, "image/png")
    await lose(connection, tenant, id, 1)
    assert await files.open(tenant, id) is None
