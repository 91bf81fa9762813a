"""`FileStore`: chunks in JetStream, an index of files and references in PostgreSQL.

A file belongs to the messages that refer to it. The database stores a reference in the transaction that
stores
the message, and deletes it with the message. A file without a reference is deleted after an hour, its chunks
and its row. Storing or touching a file updates its row first, which restarts that hour; the sweep skips rows
that were touched since. A deletion has three steps. Each may be repeated, and a crash may follow any of them:

1. ask JetStream for the end of its stream; nothing stored behind that position will be deleted;
2. mark the row as condemned: from now on the file cannot be used, and a `put` of the same file waits;
3. delete the chunks before that position, then the row.

So a sweep that was suspended after step 1 or 2 deletes no chunk that was stored since.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog

from rejoin_adapters.files.chunk_store import JetStreamChunkStore
from rejoin_adapters.ports.files import UNREFERENCED_AGE_S, FileReference, OpenFile, StoredFile
from rejoin_adapters.postgres.pool import Database
from rejoin_protocol import file_ids
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import AgentName, TenantId, UserId

log = structlog.get_logger("rejoin.files")

CONDEMNED_RETRY_S = 60.0
"""After this time another sweep finishes a deletion that was begun."""
BATCH_MAX = 100
"""Files condemned in one transaction."""
PUT_ATTEMPTS_MAX = 50
PUT_RETRY_S = 0.1
"""A deletion takes some milliseconds, unless its runner dies before it is finished."""


class CondemnedFile(msgspec.Struct, frozen=True):
    """A file that is being deleted. `condemned_at` tells this deletion from a later one of the same file."""

    tenant: TenantId
    id: FileId
    condemned_at: datetime


class SweepBatch(msgspec.Struct, frozen=True):
    """The files that one transaction condemned, of `looked` candidates; if these were `BATCH_MAX`, there
    may be more.
    """

    looked: int
    condemned: Sequence[CondemnedFile]


class PostgresFileIndex:
    """The rows of all files. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(
        self,
        tenant: TenantId,
        user: UserId | None,
        id: FileId,
        size_bytes: int,
        reference: FileReference | None = None,
    ) -> bool:
        """Announce that a file will be stored. False if it is being deleted. Raises `Limited`."""
        query = "select to_json(keep_file($1, $2, $3, $4, $5, $6))"
        session, message = (None, None) if reference is None else reference
        return await self._database.fetch_json(bool, query, tenant, id, user, size_bytes, session, message)

    async def touch(self, tenant: TenantId, id: FileId) -> bool:
        """Announce that a message will refer to a file. False if it does not exist or is being deleted."""
        return await self._database.fetch_json(bool, "select to_json(touch_file($1, $2))", tenant, id)

    async def is_used_by(self, tenant: TenantId, id: FileId, agent: AgentName) -> bool:
        """Whether a message in a session of this agent refers to a file."""
        query = """
            select to_json(exists (
              select from file_uses u join sessions s on s.tenant_id = u.tenant_id and s.id = u.session_id
              where u.tenant_id = $1 and u.file_id = $2 and s.agent = $3))
        """
        return await self._database.fetch_json(bool, query, tenant, id, agent)

    async def condemn(self, age_s: float, *, retry_s: float = CONDEMNED_RETRY_S) -> SweepBatch:
        """Condemn files that have no reference and were not touched for `age_s`. Includes files condemned
        more than `retry_s` ago that were not deleted.
        """
        query = "select condemn_files($1, $2, $3)"
        return await self._database.fetch_json(SweepBatch, query, age_s, retry_s, BATCH_MAX)

    async def remove(self, file: CondemnedFile) -> None:
        """Delete the row of a file whose chunks are deleted."""
        query = "select forget_file($1, $2, $3)::text"
        await self._database.fetch_text(query, file.tenant, file.id, file.condemned_at)


class JetStreamFileStore:
    """The adapter of `FileStore`."""

    def __init__(self, chunks: JetStreamChunkStore, index: PostgresFileIndex) -> None:
        self._chunks = chunks
        self._index = index

    async def put(
        self,
        tenant: TenantId,
        user: UserId | None,
        data: bytes,
        media_type: str,
        reference: FileReference | None = None,
    ) -> FileId:
        """See `FileStore`."""
        id = file_ids.file_id(user, data)
        for _ in range(PUT_ATTEMPTS_MAX):
            if await self._index.register(tenant, user, id, len(data), reference):
                break
            await asyncio.sleep(PUT_RETRY_S)
        else:
            raise Unavailable("the same file is being deleted")
        return await self._chunks.put(tenant, user, data, media_type)

    async def touch(self, tenant: TenantId, id: FileId) -> bool:
        """See `FileStore`."""
        return await self._index.touch(tenant, id)

    async def get(self, tenant: TenantId, id: FileId) -> StoredFile | None:
        """See `FileStore`."""
        return await self._chunks.get(tenant, id)

    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        """See `FileStore`."""
        return await self._chunks.open(tenant, id)

    async def is_used_by(self, tenant: TenantId, id: FileId, agent: AgentName) -> bool:
        """See `FileStore`."""
        return await self._index.is_used_by(tenant, id, agent)

    async def sweep(self, age_s: float = UNREFERENCED_AGE_S) -> int:
        """See `FileStore`."""
        # The end of the stream comes first: what is stored after this moment must survive.
        end, examined, deleted = await self._chunks.end(), BATCH_MAX, 0
        while examined == BATCH_MAX:
            batch = await self._index.condemn(age_s)
            for file in batch.condemned:
                await self._chunks.delete(file.tenant, file.id, before=end)
                await self._index.remove(file)
            examined = batch.looked
            deleted += len(batch.condemned)
        if deleted:
            log.info("files_deleted", files=deleted)
        return deleted
