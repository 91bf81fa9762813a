"""Attachments in the broker's object store: content-addressed, one message a chunk, each written once.

A file's chunks are `file.<tenant>.<id>.<number>`, and the id is made of the bytes. So writers of the same
bytes cannot disagree: a chunk that is refused because it is there is the same chunk, and what a dead writer
left half done is completed by the next one. Every chunk says the file's media type and how many there are, so
there is no entry that could be missing; a file is there when all of them are and their hash is its id. Read
by direct get: in batches by who needs the whole of it, chunk by chunk by who passes it on.
"""

import asyncio
import base64
import hashlib
from collections.abc import AsyncGenerator

import msgspec
from rejoin_protocol import file_formats
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.file_formats import FileId
from rejoin_protocol.ids import TenantId, UserId

from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import STORE_REFUSED, ApiError, NatsConnection
from rejoin_adapters.ports.files import OpenFile, StoredFile

CHUNK_BYTES = 256 * 1024
"""Part of what is stored: with another size the same file would have other chunks under the same names."""
READ_BYTES_MAX = 4 * 1024 * 1024
READS_MAX = 4
"""Of all files on their way at once: so many whole ones, or single chunks."""
WRITES_MAX = 4
"""Chunks of one file on their way at once."""
NOT_FOUND = 10037
_GET = f"{subjects.API}.DIRECT.GET.{subjects.FILES}"


class _FileChunk(msgspec.Struct, frozen=True):
    """One message. `count`: how many the file has."""

    count: int
    media_type: str
    data: bytes


class _StoredChunk(msgspec.Struct, frozen=True):
    hdrs: str = ""
    data: str = ""


class _FoundChunk(msgspec.Struct, frozen=True):
    message: _StoredChunk


_found = msgspec.json.Decoder(_FoundChunk)


class _State(msgspec.Struct, frozen=True):
    last_seq: int


class _Info(msgspec.Struct, frozen=True):
    state: _State


_info = msgspec.json.Decoder(_Info)


class JetStreamChunkStore:
    """The bytes, on a connection of its own: an attachment must not delay an append or an answer. Knows
    nothing of what a file belongs to.
    """

    def __init__(self, broker: NatsConnection) -> None:
        self._broker = broker
        self._reads = asyncio.Semaphore(READS_MAX)

    async def put(self, tenant: TenantId, user: UserId | None, data: bytes, media_type: str) -> FileId:
        """Store a file; the same bytes of the same user are stored once. Raises `Unavailable`."""
        id = file_formats.file_id(user, data)
        count = max(1, -(-len(data) // CHUNK_BYTES))
        gate = asyncio.Semaphore(WRITES_MAX)

        async def write(number: int) -> None:
            chunk = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            async with gate:
                await self._write(subjects.file(_token(tenant), id, number), chunk, f"{count} {media_type}")

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(write(number))
        except* Unavailable as faults:
            raise Unavailable("the broker did not store a file") from faults
        return id

    async def _write(self, subject: str, chunk: bytes, about: str) -> None:
        try:
            await self._broker.call_api(subject, chunk, headers={subjects.FILE: about})
        except ApiError as fault:
            if fault.code != STORE_REFUSED:  # else it is there: the same chunk, for the hash is in its name
                raise

    async def get(self, tenant: TenantId, id: FileId) -> StoredFile | None:
        """A file of the tenant. Raises `Unavailable`."""
        async with self._reads:
            found = await self._read(_token(tenant), id)
            first = found.get(0) or await self._ask_leader(_token(tenant), id, 0)
            if first is None:
                return None
            pieces = []
            for number in range(first.count):
                chunk = found.get(number) or await self._ask_leader(_token(tenant), id, number)
                if chunk is None:
                    return None
                pieces.append(chunk.data)
        data = b"".join(pieces)
        return StoredFile(data, first.media_type) if file_formats.matches(id, data) else None

    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        """A file of the tenant, bit by bit. Raises `Unavailable`.

        All of its chunks are there when this returns, and what has only one is known to be right. The hash
        of several is known at their end, so the last one is kept back until it is: whoever reads gets the
        whole file, or less of it than was announced.
        """
        token = _token(tenant)
        first = await self._one(token, id, 0)
        if first is None or (first.count == 1 and not file_formats.matches(id, first.data)):
            return None
        last = first if first.count == 1 else await self._one(token, id, first.count - 1)
        if last is None or not await self._has_all(token, id, first.count):
            return None
        size_bytes = (first.count - 1) * CHUNK_BYTES + len(last.data)
        return OpenFile(size_bytes, first.media_type, self._chunks(token, id, first, last))

    async def _chunks(
        self, token: str, id: FileId, chunk: _FileChunk | None, last: _FileChunk
    ) -> AsyncGenerator[bytes]:
        """From the first `chunk` to the last."""
        hashed = hashlib.sha256()
        for number in range(last.count - 1):
            if number > 0:
                chunk = await self._one(token, id, number)
            if chunk is None or len(chunk.data) != CHUNK_BYTES:
                raise Unavailable("a file went away while it was read")
            hashed.update(chunk.data)
            yield chunk.data
        hashed.update(last.data)
        if not file_formats.matches_digest(id, hashed.hexdigest()):
            raise Unavailable("the bytes of a file are not its own")
        yield last.data

    async def _has_all(self, token: str, id: FileId, count: int) -> bool:
        """Whether all chunks are there, the first and the last of which are. No name has two of them, and
        only a file's own are written under its name, so it is enough to know how many there are.
        """
        if count <= 2:  # noqa: PLR2004 - the first and the last
            return True
        ask = msgspec.json.encode({"batch": 1, "multi_last": [subjects.file_chunks(token, id)]})
        async with self._reads:
            *messages, last = await self._broker.request_many(_GET, ask)
        if len(messages) + int((last.headers or {}).get(subjects.PENDING, "0")) == count:
            return True
        # Whoever was asked may be behind: then each is looked for where all must be.
        for number in range(1, count - 1):
            if await self._one(token, id, number) is None:
                return False
        return True

    async def _one(self, token: str, id: FileId, number: int) -> _FileChunk | None:
        """A chunk, from the leader if whoever is asked does not have it."""
        async with self._reads:
            ask = msgspec.json.encode({"last_by_subj": subjects.file(token, id, number)})
            answer = await self._broker.request(_GET, ask)
            match (answer.headers or {}).get(subjects.STATUS):
                case None:
                    return _chunk(answer)
                case "404":
                    return await self._ask_leader(token, id, number)
                case status:
                    raise _refused(status)

    async def _read(self, token: str, id: FileId) -> dict[int, _FileChunk]:
        """The chunks that whoever is asked has: a replica may be behind."""
        found: dict[int, _FileChunk] = {}
        after, more = 0, True
        while more:
            ask = {
                "seq": after + 1,
                "batch": 1_000,
                "max_bytes": READ_BYTES_MAX,
                "multi_last": [subjects.file_chunks(token, id)],
            }
            *messages, last = await self._broker.request_many(_GET, msgspec.json.encode(ask))
            headers = last.headers or {}
            if headers.get(subjects.STATUS) not in ("204", "404"):
                raise _refused(headers.get(subjects.STATUS))
            for message in messages:
                found[subjects.parse_file((message.headers or {})[subjects.SUBJECT]).number] = _chunk(message)
                after = int((message.headers or {})[subjects.SEQUENCE])
            more = bool(messages) and int(headers.get(subjects.PENDING, "0")) > 0
        return found

    async def _ask_leader(self, token: str, id: FileId, number: int) -> _FileChunk | None:
        """A chunk from the stream's leader, which alone is certain."""
        ask = msgspec.json.encode({"last_by_subj": subjects.file(token, id, number)})
        try:
            answer = await self._broker.call_api(f"{subjects.API}.STREAM.MSG.GET.{subjects.FILES}", ask)
        except ApiError as fault:
            if fault.code == NOT_FOUND:
                return None
            raise
        stored = _found.decode(answer).message
        for line in base64.b64decode(stored.hdrs).decode().split("\r\n"):
            name, _, about = line.partition(":")
            if name == subjects.FILE:
                return _parsed(about.strip(), base64.b64decode(stored.data))
        raise Unavailable("a chunk of a file does not say whose it is")

    async def end(self) -> int:
        """A place behind everything that was stored before this was asked. Raises `Unavailable`."""
        answer = await self._broker.call_api(f"{subjects.API}.STREAM.INFO.{subjects.FILES}")
        return _info.decode(answer).state.last_seq + 1

    async def delete(self, tenant: TenantId, id: FileId, *, before: int) -> None:
        """Delete what of a file was stored before a place; what is not there is deleted already. Raises
        `Unavailable`.
        """
        ask = msgspec.json.encode({"filter": subjects.file_chunks(_token(tenant), id), "seq": before})
        await self._broker.call_api(f"{subjects.API}.STREAM.PURGE.{subjects.FILES}", ask)


def _refused(status: str | None) -> Unavailable:
    return Unavailable(f"the broker refused to read a file ({status})")


def _chunk(message: RawMessage) -> _FileChunk:
    return _parsed((message.headers or {})[subjects.FILE], message.data)


def _parsed(about: str, data: bytes) -> _FileChunk:
    count, _, media_type = about.partition(" ")
    return _FileChunk(int(count), media_type, data)


def _token(tenant: TenantId) -> str:
    """A tenant in a subject, whatever characters its name has."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]
