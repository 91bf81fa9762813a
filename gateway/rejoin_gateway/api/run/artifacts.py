"""Artifacts: results that runs store beside their messages. Streams and messages carry a preview only."""

from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web

from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.errors import NotFound


class ArtifactResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """An artifact with its whole content in `data`."""

    artifact_id: str
    type: str
    conversation_id: str
    data: Any
    created_at: datetime
    name: str | None = None
    summary: Any = None
    execution_id: str | None = None


async def get_artifact(request: web.Request) -> web.StreamResponse:
    """The artifact. Raises `NotFound`, also if the credential is bound to another agent."""
    id = request.match_info["id"]
    artifact = await directory_of(request).artifact(id)
    if artifact is None:
        raise NotFound(f"there is no artifact {id[:64]!r}")
    return json_response(
        ArtifactResponse(
            artifact.id,
            artifact.type,
            artifact.session,
            artifact.data,
            artifact.created_at,
            artifact.name,
            artifact.summary,
            artifact.run,
        )
    )


ROUTES = (
    Route(
        "GET",
        "/run/api/artifacts/{id}",
        get_artifact,
        Scope.CHAT,
        RouteDoc(
            "Read an artifact",
            description="Returns a result that a run has stored (a table, a report, JSON) with its whole "
            "content. Streams and messages name artifacts by id and show a preview.",
            responses={200: ArtifactResponse},
            tag="run",
        ),
    ),
)
