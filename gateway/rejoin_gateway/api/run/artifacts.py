"""What runs made besides words, whole: the streams and messages carry a preview only."""

from datetime import datetime
from typing import Any

import msgspec
from aiohttp import web
from rejoin_protocol.errors import NotFound

from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc, Scope
from rejoin_gateway.http.service import PRINCIPAL, SERVICE


class ArtifactResponse(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One of them."""

    artifact_id: str
    type: str
    conversation_id: str
    data: Any
    created_at: datetime
    name: str | None = None
    summary: Any = None
    execution_id: str | None = None


async def get_artifact(request: web.Request) -> web.StreamResponse:
    """An artifact. Raises `NotFound`, also for one of an agent that is not the credential's."""
    id, principal = request.match_info["id"], request[PRINCIPAL]
    backend = request.app[SERVICE].backend
    found = await backend.artifacts.get(principal.owner, id)
    if found is not None and principal.agent is not None:  # the agent is the session's to know
        home = await backend.threads.get(principal.owner, found.session)
        found = found if home is not None and home.agent == principal.agent else None
    if found is None:
        raise NotFound(f"there is no artifact {id[:64]!r}")
    return json_response(
        ArtifactResponse(
            found.id,
            found.type,
            found.session,
            found.data,
            found.created_at,
            found.name,
            found.summary,
            found.run,
        )
    )


ROUTES = (
    Route(
        "GET",
        "/run/api/artifacts/{id}",
        get_artifact,
        Scope.CHAT,
        RouteDoc("A whole artifact", None, {200: ArtifactResponse}, tag="run"),
    ),
)
