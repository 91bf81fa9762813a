"""The bytes of attachments in JetStream: content-addressed chunks, one message each, written once.

The chunks of a file are `file.<tenant>.<id>.<number>`, and the id contains the hash of the bytes. So
writers of
the same bytes cannot disagree: a chunk that is refused because it exists is the same chunk, and a later
writer
completes what a crashed one left unfinished. Every chunk carries the file's media type and chunk count, so
there is no index entry that could be missing: a file exists when all of its chunks exist and their hash
matches its id. Reads use direct get: in batches for a whole file, chunk by chunk for streaming.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator

import msgspec

from rejoin_adapters.jetstream.nats_client import RawMessage
from rejoin_adapters.jetstream.nats_connection import STORE_REFUSED, ApiError, NatsConnection
from rejoin_adapters.ports.files import OpenFile, StoredFile
from rejoin_protocol import file_ids
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import TenantId, UserId

CHUNK_BYTES = 256 * 1024
"""Part of the stored format: with another size, the same file would have other chunks under the same
names.
"""
FILE_READ_BYTES_MAX = 4 * 1024 * 1024
CONCURRENT_FILE_READS_MAX = 4
"""Over all files: whole files, or single chunks of streamed files."""
CONCURRENT_WRITES_MAX = 4
"""Chunks of one file."""


class _FileChunk(msgspec.Struct, frozen=True):
    """One chunk, which is one JetStream message. `count`: the number of chunks of its file."""

    count: int
    media_type: str
    data: bytes


class _StreamState(msgspec.Struct, frozen=True):
    last_seq: int


class _StreamInfo(msgspec.Struct, frozen=True):
    state: _StreamState


_stream_info = msgspec.json.Decoder(_StreamInfo)


class JetStreamChunkStore:
    """Stores and reads files. Uses a connection of its own, so that attachments do not delay appends. Knows
    nothing of the messages that refer to a file.
    """

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection
        self._names = connection.names
        self._get = f"{subjects.JETSTREAM_API}.DIRECT.GET.{connection.names.files_stream}"
        self._reads = asyncio.Semaphore(CONCURRENT_FILE_READS_MAX)

    async def put(self, tenant: TenantId, user: UserId | None, data: bytes, media_type: str) -> FileId:
        """Store a file. The same bytes of one user are stored once. Raises `Unavailable`."""
        id = file_ids.file_id(user, data)
        count = max(1, -(-len(data) // CHUNK_BYTES))
        writes = asyncio.Semaphore(CONCURRENT_WRITES_MAX)

        async def write(number: int) -> None:
            chunk = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
            async with writes:
                await self._write_chunk(
                    self._names.file(_token(tenant), id, number), chunk, f"{count} {media_type}"
                )

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(write(number))
        except* Unavailable as errors:
            raise Unavailable("the broker did not store a file") from errors
        return id

    async def _write_chunk(self, subject: str, chunk: bytes, header: str) -> None:
        try:
            await self._connection.call_api(subject, chunk, headers={subjects.FILE: header})
        except ApiError as error:
            # Refused because it exists: it is the same chunk, since the hash of the file is in its name.
            if error.code != STORE_REFUSED:
                raise

    async def get(self, tenant: TenantId, id: FileId) -> StoredFile | None:
        """A file of the tenant, or None. Raises `Unavailable`."""
        token = _token(tenant)
        async with self._reads:
            chunks = await self.read_all(token, id)
            first = chunks.get(0) or await self._read_from_leader(token, id, 0)
            if first is None:
                return None
            parts = []
            for number in range(first.count):
                chunk = chunks.get(number) or await self._read_from_leader(token, id, number)
                if chunk is None:
                    return None
                parts.append(chunk.data)
        data = b"".join(parts)
        return StoredFile(data, first.media_type) if file_ids.is_content_of(data, id) else None

    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        """A file of the tenant to be streamed, or None. Raises `Unavailable`.

        When this returns, all chunks exist, and a file of one chunk has the right hash. The hash of several
        chunks is known only after the last one, which is therefore withheld until then: a reader gets either
        the whole file or fewer bytes than `size_bytes`.
        """
        token = _token(tenant)
        first = await self.read_chunk(token, id, 0)
        if first is None or (first.count == 1 and not file_ids.is_content_of(first.data, id)):
            return None
        last = first if first.count == 1 else await self.read_chunk(token, id, first.count - 1)
        if last is None or not await self._has_all(token, id, first.count):
            return None
        size_bytes = (first.count - 1) * CHUNK_BYTES + len(last.data)
        return OpenFile(size_bytes, first.media_type, self._stream(token, id, first, last))

    async def _stream(
        self, token: str, id: FileId, chunk: _FileChunk | None, last: _FileChunk
    ) -> AsyncGenerator[bytes]:
        """The bytes from the first `chunk` to the `last`."""
        digest = hashlib.sha256()
        for number in range(last.count - 1):
            if number > 0:
                chunk = await self.read_chunk(token, id, number)
            if chunk is None or len(chunk.data) != CHUNK_BYTES:
                raise Unavailable("the file was deleted while it was read")
            digest.update(chunk.data)
            yield chunk.data
        digest.update(last.data)
        if not file_ids.is_digest_of(digest.hexdigest(), id):
            raise Unavailable("the bytes of the file do not match its hash")
        yield last.data

    async def _has_all(self, token: str, id: FileId, count: int) -> bool:
        """Whether all chunks exist, given that the first and the last do. Each subject holds at most one
        message, and only this file's chunks are written under its id, so counting them is enough.
        """
        if count <= 2:  # noqa: PLR2004 - the first and the last
            return True
        query = msgspec.json.encode({"batch": 1, "multi_last": [self._names.file_chunks(token, id)]})
        async with self._reads:
            *messages, end = await self._connection.request_many(self._get, query)
        if len(messages) + int(end.headers.get(subjects.PENDING, "0")) == count:
            return True
        # The replica that answered may be behind. Look for each chunk, in the end at the leader.
        for number in range(1, count - 1):
            if await self.read_chunk(token, id, number) is None:
                return False
        return True

    async def read_chunk(self, token: str, id: FileId, number: int) -> _FileChunk | None:
        """A chunk, or None. Read from the leader if the replica that answers does not have it."""
        async with self._reads:
            query = msgspec.json.encode({"last_by_subj": self._names.file(token, id, number)})
            reply = await self._connection.request(self._get, query)
            match reply.status:
                case None:
                    return _parse_message(reply)
                case "404":
                    return await self._read_from_leader(token, id, number)
                case status:
                    raise _refused(status)

    async def read_all(self, token: str, id: FileId) -> dict[int, _FileChunk]:
        """The chunks that the answering replica has. It may be behind."""
        chunks: dict[int, _FileChunk] = {}
        after, more = 0, True
        while more:
            query = {
                "seq": after + 1,
                "batch": 1_000,
                "max_bytes": FILE_READ_BYTES_MAX,
                "multi_last": [self._names.file_chunks(token, id)],
            }
            *messages, end = await self._connection.request_many(self._get, msgspec.json.encode(query))
            headers = end.headers
            if headers.get(subjects.STATUS_HEADER) not in ("204", "404"):
                raise _refused(headers.get(subjects.STATUS_HEADER))
            for message in messages:
                message_headers = message.headers
                number = self._names.parse_file(message_headers[subjects.SUBJECT]).number
                chunks[number] = _parse_message(message)
                after = int(message_headers[subjects.SEQUENCE])
            more = bool(messages) and int(headers.get(subjects.PENDING, "0")) > 0
        return chunks

    async def _read_from_leader(self, token: str, id: FileId, number: int) -> _FileChunk | None:
        """A chunk from the stream's leader, or None if it does not exist."""
        message = await self._connection.last_message(
            self._names.files_stream, self._names.file(token, id, number)
        )
        if message is None:
            return None
        if (header := message.headers.get(subjects.FILE)) is None:
            raise Unavailable("a chunk of a file has no file header")
        return _parse_chunk(header, message.data)

    async def end(self) -> int:
        """A sequence behind everything stored before this call. Raises `Unavailable`."""
        response = await self._connection.call_api(
            f"{subjects.JETSTREAM_API}.STREAM.INFO.{self._names.files_stream}"
        )
        return _stream_info.decode(response).state.last_seq + 1

    async def delete(self, tenant: TenantId, id: FileId, *, before: int) -> None:
        """Delete the chunks of a file that were stored before a sequence. Idempotent. Raises
        `Unavailable`.
        """
        query = msgspec.json.encode({"filter": self._names.file_chunks(_token(tenant), id), "seq": before})
        await self._connection.call_api(
            f"{subjects.JETSTREAM_API}.STREAM.PURGE.{self._names.files_stream}", query
        )


def _refused(status: str | None) -> Unavailable:
    return Unavailable(f"the broker refused to read a file ({status})")


def _parse_message(message: RawMessage) -> _FileChunk:
    return _parse_chunk(message.headers[subjects.FILE], message.data)


def _parse_chunk(header: str, data: bytes) -> _FileChunk:
    count, _, media_type = header.partition(" ")
    return _FileChunk(int(count), media_type, data)


def _token(tenant: TenantId) -> str:
    """The tenant as a subject token: a tenant's name may contain any character."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]
