"""`GET /api/sessions`: the sessions of a tenant, to look for one by its name.

A session is read, renamed and deleted by the session API, `/api/agents/{agent}/{session}`, and forked by
`POST /api/threads/{id}/fork`.
"""

from datetime import datetime
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_adapters.console_types import SEARCHED_MAX, SessionFilter
from rejoin_gateway.api.shared.lookup import directory_of
from rejoin_gateway.api.shared.paging import LIMIT_MAX, parse_limit
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.response import json_response
from rejoin_gateway.http.routes import Route, RouteDoc
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, SessionId, UserId
from rejoin_protocol.limits import ID_CHARS_MAX

LISTED_DEFAULT = 50


class ListedSession(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A session. `title`: its own, or how its first user message begins. `messages`: how many it has.
    `active`: whether a run of it is queued or running.
    """

    id: SessionId
    agent_id: AgentName
    created_at: datetime
    updated_at: datetime
    messages: int
    active: bool = False
    title: str | None = None
    user_id: UserId | None = None


class ListedSessions(msgspec.Struct, frozen=True, omit_defaults=True):
    """Sessions, the last changed first. `next`: `before` of the next page; absent on the last one."""

    sessions: list[ListedSession]
    next: str | None = None


async def list_sessions(request: web.Request) -> web.StreamResponse:
    """A page of the caller's sessions. Raises `Invalid` for a filter that cannot be read."""
    limit = parse_limit(request, LISTED_DEFAULT)
    directory = directory_of(request)
    page = await directory.search_sessions(_parse_filter(request), limit)
    titles = await directory.titles(page.sessions)
    sessions = [
        ListedSession(
            id=one.id,
            agent_id=one.agent,
            created_at=one.created_at,
            updated_at=one.updated_at,
            messages=one.messages,
            active=one.is_busy,
            title=titles.get(one.id),
            user_id=one.user,
        )
        for one in page.sessions
    ]
    return json_response(ListedSessions(sessions, page.next))


def _parse_filter(request: web.Request) -> SessionFilter:
    given = {name: text for name, text in request.query.items() if text}
    for name in ("text", "agent", "user"):
        if len(given.get(name, "")) > ID_CHARS_MAX:
            raise Invalid(f"{name} has more than {ID_CHARS_MAX} characters")
    return SessionFilter(
        text=given.get("text"),
        agent=AgentName(given["agent"]) if "agent" in given else None,
        user=UserId(given["user"]) if "user" in given else None,
        before=given.get("before"),
    )


ROUTES = (
    Route(
        "GET",
        "/api/sessions",
        list_sessions,
        Scope.ADMIN,
        RouteDoc(
            "List sessions",
            description="Use it to find a conversation. Returns the sessions that have all of what the query "
            "names, the last changed first: of the tenant, or of the credential's user or agent. A page of a "
            f"search looks at {SEARCHED_MAX} sessions and may have few or none: go on with its `next`. The "
            "page `/sessions` shows the same.",
            responses={200: ListedSessions},
            query={
                "text": "Only sessions with this in their id, their title or, without one, in the beginning "
                "of their first user message, in any case of letters.",
                "agent": "Only sessions with this agent.",
                "user": "Only sessions of this user.",
                "limit": ("Sessions on the page, at most.", Annotated[int, Meta(ge=1, le=LIMIT_MAX)]),
                "before": "`next` of the page before. Without it the first page is returned.",
            },
            tag="operations",
        ),
    ),
)
