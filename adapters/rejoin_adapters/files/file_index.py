"""Which files there are and what they belong to, as rows; and `Files` that cannot outlive it.

A file belongs to the messages that name it: the database writes that down in the transaction that stores a
message, and forgets it with the message. What nothing has named for an hour is deleted, bytes and row.
Whoever stores or names a file touches its row first and has that hour to store the message; the sweep takes
no row that was touched since. Deleting is in three steps, which may be done twice and may end after any:

1. the broker is asked how far its stream goes: nothing behind that place will be deleted;
2. the row is doomed, from when on nobody can use the file, and whoever stores it again waits;
3. its chunks up to that place are deleted, and then its row.

So a sweep that was asleep after the first or second step deletes no byte that was written since. Concrete: it
is PostgreSQL.
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.file_formats import FileId
from rejoin_protocol.ids import TenantId, UserId

from rejoin_adapters.files.chunk_store import FileReference, JetStreamChunkStore, OpenFile, StoredFile
from rejoin_adapters.postgres.pool import Database

log = structlog.get_logger("rejoin.files")

LOOSE_AGE_S = 3600.0
"""How long a file stays that nothing names: what a request has from its upload to its message."""
DOOMED_AGAIN_S = 60.0
"""After so long another sweep finishes what one has begun."""
LOOK_MAX = 100
"""Files in one transaction."""
TRIES_MAX = 50
TRY_AGAIN_S = 0.1
"""A deletion takes some milliseconds, unless its runner dies in the middle."""


class CondemnedFile(msgspec.Struct, frozen=True):
    """A file that is being deleted. `doomed_at` tells one sweep's deletion from a later one."""

    tenant: TenantId
    id: FileId
    doomed_at: datetime


class SweepBatch(msgspec.Struct, frozen=True):
    """What one look found, at so many files: if they were `LOOK_MAX`, there may be more."""

    looked: int
    doomed: Sequence[CondemnedFile]


class PostgresFileIndex:
    """The rows. Each method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(
        self,
        tenant: TenantId,
        user: UserId | None,
        id: FileId,
        size_bytes: int,
        home: FileReference | None = None,
    ) -> bool:
        """It is about to be stored. False if it is being deleted. Raises `Limited`."""
        query = "select to_json(keep_file($1, $2, $3, $4, $5, $6))"
        place = (None, None) if home is None else home
        return await self._database.get(bool, query, tenant, id, user, size_bytes, *place)

    async def touch(self, tenant: TenantId, id: FileId) -> bool:
        """It is about to be named. False if there is none, or it is being deleted."""
        return await self._database.get(bool, "select to_json(touch_file($1, $2))", tenant, id)

    async def doom(self, age_s: float, *, again_s: float = DOOMED_AGAIN_S) -> SweepBatch:
        """Files that nothing has named or touched for `age_s`, to be deleted now."""
        query = "select doom_files($1, $2, $3)"
        return await self._database.get(SweepBatch, query, age_s, again_s, LOOK_MAX)

    async def forget(self, doomed: CondemnedFile) -> None:
        """Its bytes are gone."""
        query = "select forget_file($1, $2, $3)::text"
        await self._database.value(query, doomed.tenant, doomed.id, doomed.doomed_at)


class JetStreamFileStore:
    """`Files`, with their rows."""

    def __init__(self, files: JetStreamChunkStore, holdings: PostgresFileIndex) -> None:
        self._files = files
        self._holdings = holdings

    async def put(
        self,
        tenant: TenantId,
        user: UserId | None,
        data: bytes,
        media_type: str,
        home: FileReference | None = None,
    ) -> FileId:
        """See `Files`."""
        id = file_formats.file_id(user, data)
        for _ in range(TRIES_MAX):
            if await self._holdings.keep(tenant, user, id, len(data), home):
                break
            await asyncio.sleep(TRY_AGAIN_S)
        else:
            raise Unavailable("the same file is being deleted")
        return await self._files.put(tenant, user, data, media_type)

    async def touch(self, tenant: TenantId, id: FileId) -> bool:
        """See `Files`."""
        return await self._holdings.touch(tenant, id)

    async def get(self, tenant: TenantId, id: FileId) -> StoredFile | None:
        """See `Files`."""
        return await self._files.get(tenant, id)

    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        """See `Files`."""
        return await self._files.open(tenant, id)

    async def sweep(self, age_s: float = LOOSE_AGE_S) -> int:
        """See `Files`."""
        end, looked, deleted = await self._files.end(), LOOK_MAX, 0
        while looked == LOOK_MAX:
            look = await self._holdings.doom(age_s)
            for one in look.doomed:
                await self._files.delete(one.tenant, one.id, before=end)
                await self._holdings.forget(one)
            looked = look.looked
            deleted += len(look.doomed)
        if deleted:
            log.info("files_deleted", files=deleted)
        return deleted
