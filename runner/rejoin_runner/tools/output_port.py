"""The ports through which a tool call, or a custom loop, writes to its run's log and stores artifacts."""

from typing import Any, Protocol

import msgspec

from rejoin_adapters.store_types import Artifact
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import RunId, TenantId
from rejoin_protocol.log.record import Audience


class NewArtifact(msgspec.Struct, frozen=True):
    """An artifact before it is stored."""

    id: str
    type: str
    name: str
    preview: dict[str, Any]
    """The fields that clients see in the message."""
    data: Any
    """The complete JSON value, which clients fetch by the id."""


class CallOutput(Protocol):
    """Writes to the log of a run for one call. It is closed when the call ends."""

    agent: str
    """The name of the agent whose call it is."""
    run: RunId
    status_audience: Audience
    """Which clients receive `status_update` operations."""

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Append a chunk to the message. While a text is open, the chunk is held back until the text ends."""
        ...

    async def show_preliminary(self, output: Any) -> None:
        """Show a preliminary result of the call."""
        ...

    async def store_artifact(self, artifact: NewArtifact) -> None:
        """Store an artifact."""
        ...

    def next_number(self, kind: str) -> int:
        """The number of things of this kind that the call has emitted so far; counts the next one."""
        ...

    def now_ms(self) -> int:
        """The time, in milliseconds since 1970."""
        ...


class ArtifactStore(Protocol):
    """Where artifacts are stored: `rejoin_adapters.postgres.artifacts`."""

    async def put(self, tenant: TenantId, artifact: Artifact) -> None:
        """Store an artifact unless its id exists. Raises `Fenced` if its session was deleted."""
        ...
