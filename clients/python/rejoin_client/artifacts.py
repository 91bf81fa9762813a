"""`client.artifacts`: what tools have stored. Uses the API `/run/api/artifacts`."""

from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec

from rejoin_client.transport import HttpTransport, Request


class Artifact(msgspec.Struct, frozen=True, rename="camel"):
    """An artifact with its whole content in `data`. `summary`: the fields that the answer shows of it."""

    artifact_id: str
    type: str
    conversation_id: str
    data: Any
    created_at: datetime
    name: str | None = None
    summary: Any = None
    execution_id: str | None = None


class Artifacts:
    """The artifacts of the caller's sessions."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    async def get(self, artifact: str) -> Artifact:
        """An artifact by the `artifactId` of its part `data-artifact`. Raises `NotFound`."""
        path = f"/run/api/artifacts/{quote(artifact, safe='')}"
        return await self._transport.call(Request(method="GET", path=path), Artifact)
