"""The ports through which a tool call writes to the log and stores artifacts."""

from typing import Any, Protocol

import msgspec
from rejoin_adapters.postgres.artifacts import Artifact
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import TenantId
from rejoin_protocol.log.record import Audience


class NewArtifact(msgspec.Struct, frozen=True):
    """An artifact before it is stored. `preview` is what everybody sees, `data` what is fetched."""

    id: str
    type: str
    name: str
    preview: dict[str, Any]
    data: Any


class CallOutput(Protocol):
    """The way from a call to the run's log, for as long as the call lasts."""

    agent: str

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Say something that must not stand in the middle of a text."""
        ...

    async def show_preliminary(self, output: Any) -> None:
        """Show what the result may become."""
        ...

    async def store_artifact(self, artifact: NewArtifact) -> None:
        """Store an artifact."""
        ...

    def next_number(self, kind: str) -> int:
        """How many of a kind this call has made before."""
        ...

    def now_ms(self) -> int:
        """The time."""
        ...


class ArtifactStore(Protocol):
    """Where artifacts are stored: `adapters.artifacts`."""

    async def put(self, tenant: TenantId, artifact: Artifact) -> None:
        """Store it, unless it is there. Raises `Fenced` if its session is gone."""
        ...
