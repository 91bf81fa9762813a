"""What `Files` promises of the real object store: content-addressed, complete or absent, one tenant's own."""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from protocol import media, names
from protocol.adapters import broker
from protocol.adapters.broker import Broker
from protocol.adapters.files import CHUNK_BYTES, File, JetStreamFiles, _token
from protocol.ids import TenantId, UserId
from protocol.media import FileId

ANN, BOB = UserId("ann"), UserId("bob")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def connection(nats_url: str) -> AsyncIterator[Broker]:
    async with broker.connect(nats_url, "files") as one:
        yield one


@pytest.fixture
def files(connection: Broker) -> JetStreamFiles:
    return JetStreamFiles(connection)


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(f"Ünïted. Tenants > {secrets.token_hex(4)}")


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


async def messages(connection: Broker, tenant: TenantId, id: FileId) -> int:
    """How many chunks the broker has of a file."""
    ask = msgspec.json.encode({"subjects_filter": names.file_chunks(_token(tenant), id)})
    answer = await connection.call(f"$JS.API.STREAM.INFO.{names.FILES}", ask)
    return len(msgspec.json.decode(answer)["state"].get("subjects") or {})


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 10 * 1024 * 1024])
async def test_a_file_comes_back_as_it_was_put(files: JetStreamFiles, tenant: TenantId, size: int) -> None:
    data = content(size)
    id = await files.put(tenant, ANN, data, "image/png")
    assert await files.get(tenant, id) == File(data, "image/png")


async def test_the_same_bytes_are_stored_once(
    connection: Broker, files: JetStreamFiles, tenant: TenantId
) -> None:
    """Also by several writers at the same time, and by another process."""
    data = content(5 * CHUNK_BYTES + 7)
    other = JetStreamFiles(connection)
    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(one.put(tenant, ANN, data, "image/png")) for one in (files, other, files)]
    assert len({put.result() for put in puts}) == 1
    id = await files.put(tenant, ANN, data, "image/png")
    assert await messages(connection, tenant, id) == 6
    assert await files.get(tenant, id) == File(data, "image/png")


async def test_the_same_bytes_of_two_users_are_two_files(files: JetStreamFiles, tenant: TenantId) -> None:
    anns, bobs = [await files.put(tenant, user, b"same", "image/png") for user in (ANN, BOB)]
    assert anns != bobs
    assert media.belongs(anns, ANN)
    assert not media.belongs(anns, BOB)


async def test_a_file_is_its_tenants_alone(files: JetStreamFiles, tenant: TenantId) -> None:
    id = await files.put(tenant, ANN, b"secret", "application/pdf")
    assert await files.get(TenantId(f"{tenant}2"), id) is None
    await files.delete(TenantId(f"{tenant}2"), id, before=await files.end())
    assert await files.get(tenant, id) is not None


async def test_a_file_that_was_never_put_is_not_there(files: JetStreamFiles, tenant: TenantId) -> None:
    assert await files.get(tenant, media.file_id(ANN, b"nothing")) is None


async def test_what_is_deleted_is_gone_and_can_be_put_again(files: JetStreamFiles, tenant: TenantId) -> None:
    data = content(2 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/webp")
    for _ in range(2):
        await files.delete(tenant, id, before=await files.end())
    assert await files.get(tenant, id) is None
    assert await files.put(tenant, ANN, data, "image/webp") == id
    assert await files.get(tenant, id) == File(data, "image/webp")


async def test_a_deletion_spares_what_was_stored_after_it_was_begun(
    connection: Broker, files: JetStreamFiles, tenant: TenantId
) -> None:
    """As a sweep does that was asleep for a while."""
    data = content(2 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/webp")
    end = await files.end()
    await files.delete(tenant, id, before=end)
    assert await messages(connection, tenant, id) == 0
    await files.put(tenant, ANN, data, "image/webp")
    await files.delete(tenant, id, before=end)
    assert await files.get(tenant, id) == File(data, "image/webp")


async def test_a_file_of_which_a_chunk_is_missing_is_absent_until_it_is_put_again(
    connection: Broker, files: JetStreamFiles, tenant: TenantId
) -> None:
    """As a writer leaves it that dies half way, or a power cut."""
    data = content(4 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/png")
    ask = msgspec.json.encode({"filter": names.file(_token(tenant), id, 2)})
    await connection.call(f"$JS.API.STREAM.PURGE.{names.FILES}", ask)
    assert await files.get(tenant, id) is None
    await files.put(tenant, ANN, data, "image/png")
    assert await files.get(tenant, id) == File(data, "image/png")


async def test_bytes_that_are_not_the_files_are_never_returned(
    connection: Broker, files: JetStreamFiles, tenant: TenantId
) -> None:
    id = media.file_id(ANN, b"right")
    await connection.call(names.file(_token(tenant), id, 0), b"wrong", headers={names.FILE: "1 image/png"})
    assert await files.get(tenant, id) is None


async def test_a_replica_that_is_behind_is_made_up_for_by_the_leader(
    files: JetStreamFiles, tenant: TenantId, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(3 * CHUNK_BYTES)
    id = await files.put(tenant, ANN, data, "image/png")
    whole = await files._read(_token(tenant), id)

    async def behind(*_: object) -> dict[int, object]:
        return {1: whole[1]}

    monkeypatch.setattr(files, "_read", behind)
    assert await files.get(tenant, id) == File(data, "image/png")
