"""Downloads of a stored file: slow readers, many readers, and failures in the middle."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import AGEN_CLOSED, getasyncgenstate

import aiohttp
import msgspec
import pytest

from rejoin_adapters.files.chunk_store import CHUNK_BYTES, JetStreamChunkStore, _FileChunk, _token
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.nats_connection import ApiError
from rejoin_adapters.ports.files import OpenFile
from rejoin_protocol import file_formats, file_ids
from rejoin_protocol.broker import subjects
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import FILE_BYTES_MAX
from tests.support.clients.attachments import pdf_of_size
from tests.support.clients.problems import assert_problem
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

TENANT = TenantId("default")
READERS = 12


class Watched(msgspec.Struct):
    """What a gateway has read of files."""

    chunks: int = 0
    files: list[OpenFile] = []

    def over(self) -> list[bool]:
        """For each file, whether its reader is closed."""
        return [getasyncgenstate(file.chunks) == AGEN_CLOSED for file in self.files]


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Of all gateways of this process."""
    seen, one, open_ = Watched(), JetStreamChunkStore.read_chunk, JetStreamChunkStore.open

    async def counted(self: JetStreamChunkStore, token: str, id: FileId, number: int) -> _FileChunk | None:
        seen.chunks += 1
        return await one(self, token, id, number)

    async def noted(self: JetStreamChunkStore, tenant: TenantId, id: FileId) -> OpenFile | None:
        found = await open_(self, tenant, id)
        if found is not None:
            seen.files.append(found)
        return found

    monkeypatch.setattr(JetStreamChunkStore, "read_chunk", counted)
    monkeypatch.setattr(JetStreamChunkStore, "open", noted)
    return seen


async def stored(system: LocalSystem, data: bytes) -> FileId:
    """Store a file that no message names."""
    async with nats_connection.connect(system.nats_url, "tests") as connection:
        return await JetStreamChunkStore(connection).put(TENANT, None, data, file_formats.PDF)


async def replaced(
    system: LocalSystem, id: FileId, number: int, chunk: bytes | None, about: str = ""
) -> None:
    """Another chunk in the place of a file's own, or none."""
    async with nats_connection.connect(system.nats_url, "tests") as connection:
        subject = subjects.DEFAULT.file(_token(TENANT), id, number)
        ask = msgspec.json.encode({"filter": subject})
        await connection.call_api(f"$JS.API.STREAM.PURGE.{subjects.FILES}", ask)
        if chunk is not None:
            await connection.call_api(subject, chunk, headers={subjects.FILE: about})


@asynccontextmanager
async def stalled(base: str, id: FileId) -> AsyncIterator[bytes]:
    """A client that has read the head of its answer and no more. It leaves without a word."""
    host, port = base.removeprefix("http://").split(":")
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=connection, limit=1024)
        writer.write(f"GET {file_ids.FILE_URL_PREFIX}{id} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        try:
            yield await reader.readuntil(b"\r\n\r\n")
        finally:
            writer.transport.abort()


async def test_readers_that_stall_hold_a_little_of_a_large_file_and_leave_nothing(
    system: LocalSystem, watched: Watched
) -> None:
    """Meanwhile another reader gets all of it."""
    base, data = await system.gateway(), pdf_of_size(FILE_BYTES_MAX)
    id = await stored(system, data)
    async with AsyncExitStack() as clients:
        for _ in range(READERS):
            head = await clients.enter_async_context(stalled(base, id))
            assert f"content-length: {len(data)}" in head.decode().lower()
        assert (await system.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}")).raw == data
        whole = len(data) // CHUNK_BYTES
        # The kernel buffers some chunks for each connection.
        assert watched.chunks - whole < READERS * whole / 2
        assert watched.over() == [False] * READERS + [True]
    await wait_until(lambda: all(watched.over()), "that all were let go")


async def test_a_file_without_its_middle_is_unknown(system: LocalSystem) -> None:
    """The response has no byte of the file."""
    base = await system.gateway()
    id = await stored(system, pdf_of_size(3 * CHUNK_BYTES))
    assert (await system.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}")).status == 200
    await replaced(system, id, 1, None)
    assert_problem(await system.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}"), 404)


async def test_a_file_whose_bytes_are_not_its_own_is_never_taken_for_it(system: LocalSystem) -> None:
    base, data = await system.gateway(), pdf_of_size(3 * CHUNK_BYTES)
    id = await stored(system, data)
    await replaced(system, id, 1, b"x" * CHUNK_BYTES, f"3 {file_formats.PDF}")
    async with system.http.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}") as response:
        assert response.content_length == len(data)
        with pytest.raises(aiohttp.ClientError):
            await response.read()


@pytest.mark.parametrize("fault", [ApiError(10008, "no leader"), KeyError("a bug")], ids=["broker", "ours"])
async def test_whatever_fails_behind_the_headers_breaks_the_connection(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """Another answer in the midst of the file would be taken for a part of it."""
    base, one = await system.gateway(), JetStreamChunkStore.read_chunk
    id = await stored(system, pdf_of_size(3 * CHUNK_BYTES))

    async def failing(self: JetStreamChunkStore, token: str, id: FileId, number: int) -> _FileChunk | None:
        if number == 1:
            raise fault
        return await one(self, token, id, number)

    monkeypatch.setattr(JetStreamChunkStore, "read_chunk", failing)
    async with system.http.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}") as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_client_with_a_current_copy_gets_304(system: LocalSystem, watched: Watched) -> None:
    base = await system.gateway()
    id = await stored(system, pdf_of_size(4 * CHUNK_BYTES))
    first = await system.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}")
    assert first.headers["etag"] == f'"{id}"'
    for tags in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        watched.chunks = 0
        answer = await system.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}", **{"If-None-Match": tags})
        assert (answer.status, answer.raw, answer.headers["etag"]) == (304, b"", first.headers["etag"])
        assert watched.chunks == 2, "the first and the last, to know that it is there"
    again = await system.get(f"{base}{file_ids.FILE_URL_PREFIX}{id}", **{"If-None-Match": '"other"'})
    assert again.raw == first.raw
    unknown = file_ids.file_id(None, b"nobody's")
    answer = await system.get(
        f"{base}{file_ids.FILE_URL_PREFIX}{unknown}", **{"If-None-Match": f'"{unknown}"'}
    )
    assert_problem(answer, 404)
