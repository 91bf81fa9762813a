"""Attachments: content-addressed files of a tenant."""

from collections.abc import AsyncGenerator
from typing import NamedTuple, Protocol

import msgspec

from rejoin_protocol.file_ids import FileId
from rejoin_protocol.ids import AgentName, MessageId, SessionId, TenantId, UserId

UNREFERENCED_AGE_S = 3600.0
"""How long a file stays that no message refers to: the time from the upload to the message."""


class StoredFile(msgspec.Struct, frozen=True):
    """The bytes of a file and its media type."""

    data: bytes
    media_type: str


class OpenFile(msgspec.Struct, frozen=True):
    """A complete file, to be streamed. `chunks` yields its bytes in order, once, and holds at most two
    chunks. It raises `Unavailable` before the last chunk if the bytes do not match the file's hash.
    """

    size_bytes: int
    media_type: str
    chunks: AsyncGenerator[bytes]


class FileReference(NamedTuple):
    """A stored message that a file belongs to before the text of the message refers to the file."""

    session: SessionId
    message: MessageId


class FileStore(Protocol):
    """The attachments of all tenants. A deleted or incomplete file does not exist. A file that no stored
    message refers to, and that was not put or touched for `UNREFERENCED_AGE_S`, is deleted.
    """

    async def put(
        self,
        tenant: TenantId,
        user: UserId | None,
        data: bytes,
        media_type: str,
        reference: FileReference | None = None,
    ) -> FileId:
        """Store a file. The same bytes of one user are stored once. Raises `Limited`, `Unavailable`."""
        ...

    async def touch(self, tenant: TenantId, id: FileId) -> bool:
        """Keep a file until a message that refers to it is stored. False if there is no such file."""
        ...

    async def get(self, tenant: TenantId, id: FileId) -> StoredFile | None:
        """A file of the tenant, or None. Raises `Unavailable`."""
        ...

    async def open(self, tenant: TenantId, id: FileId) -> OpenFile | None:
        """A file of the tenant to be streamed, or None. Raises `Unavailable`."""
        ...

    async def is_used_by(self, tenant: TenantId, id: FileId, agent: AgentName) -> bool:
        """Whether a message in a session of this agent refers to the file. Raises `Unavailable`."""
        ...

    async def sweep(self, age_s: float = UNREFERENCED_AGE_S) -> int:
        """Delete files without a reference that were not touched for `age_s`; returns how many. Any number of
        runners may sweep at once.
        """
        ...
