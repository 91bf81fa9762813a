"""`FileStore` in memory, over the messages of a `MemoryDatabase`.

Unlike the real one, it looks for references only when it sweeps.
"""

from collections.abc import AsyncGenerator
from datetime import datetime, timedelta

from rejoin_adapters.files.chunk_store import CHUNK_BYTES
from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.memory.database.tables import MemoryDatabase
from rejoin_adapters.ports.files import UNREFERENCED_AGE_S, FileReference, OpenFile, StoredFile
from rejoin_protocol import file_ids
from rejoin_protocol.errors import Limited
from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import AgentName, TenantId, UserId


class MemoryFileStore:
    """`FileStore` in memory."""

    def __init__(self, database: MemoryDatabase | None = None) -> None:
        self._database = database or MemoryDatabase()
        self.files: dict[tuple[TenantId, FileId], StoredFile] = {}
        self._touched_at: dict[tuple[TenantId, FileId], datetime] = {}
        self._references: dict[tuple[TenantId, FileId], set[FileReference]] = {}

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
        bytes_max = self._database.limit(tenant, "file_bytes_max")
        stored = sum(len(file.data) for (owner, _), file in self.files.items() if owner == tenant)
        if (tenant, id) not in self.files and bytes_max is not None and stored + len(data) > bytes_max:
            raise Limited(
                "the tenant has as many bytes of files as it may: delete sessions that have some", 60
            )
        self.files.setdefault((tenant, id), StoredFile(data, media_type))
        self._touched_at[tenant, id] = now_utc()
        if reference is not None:
            self._references.setdefault((tenant, id), set()).add(reference)
        return id

    async def touch(self, tenant: TenantId, id: FileId) -> bool:
        """See `FileStore`."""
        if (tenant, id) not in self.files:
            return False
        self._touched_at[tenant, id] = now_utc()
        return True

    async def get(self, tenant: TenantId, id: FileId) -> StoredFile | None:
        """See `FileStore`."""
        return self.files.get((tenant, id))

    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        """See `FileStore`."""
        file = self.files.get((tenant, id))
        return None if file is None else OpenFile(len(file.data), file.media_type, _chunks(file.data))

    async def sweep(self, age_s: float = UNREFERENCED_AGE_S) -> int:
        """See `FileStore`."""
        untouched_since = now_utc() - timedelta(seconds=age_s)
        deleted = [
            key
            for key, touched_at in self._touched_at.items()
            if touched_at < untouched_since and not self._is_referenced(*key)
        ]
        for key in deleted:
            del self.files[key], self._touched_at[key]
            self._references.pop(key, None)
        return len(deleted)

    async def is_used_by(self, tenant: TenantId, id: FileId, agent: AgentName) -> bool:
        """See `FileStore`."""
        return self._is_referenced(tenant, id, agent)

    def _is_referenced(self, tenant: TenantId, id: FileId, agent: AgentName | None = None) -> bool:
        text = f'"{file_ids.file_url(id)}"'.encode()
        for (owner, session), row in self._database.sessions.items():
            if owner != tenant or agent not in (None, row.agent):
                continue
            for message in row.messages:
                if FileReference(session, message.id) in self._references.get((tenant, id), ()):
                    return True
                if message.body is not None and text in message.body and _may_refer(id, row.user):
                    return True
        return False


def _may_refer(id: FileId, user: UserId | None) -> bool:
    """A message in a user's session does not keep another user's file."""
    return file_ids.is_visible_to(id, user) or id.startswith(file_ids.user_prefix(None))


async def _chunks(data: bytes) -> AsyncGenerator[bytes]:
    for start in range(0, max(len(data), 1), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
