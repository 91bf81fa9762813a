"""A route: what answers it, what a caller must be allowed to do, and how its refusals look.

Each family lists its own; `app` mounts them all; the contract at `/openapi.json` is made of the same list.
Owns no request: the middlewares in `web` look up here what is true of the one they have.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Scope(StrEnum):
    """What a credential allows."""

    CHAT = "chat"
    """Talk, read, stop."""
    APPROVE = "approve"
    """Decide what tools may do."""
    ADMIN = "admin"
    """What is not an end user's: the agent-chat family, and other people's sessions of the tenant."""


class ErrorFormat(StrEnum):
    """How a family's errors look."""

    PROBLEM = "problem"  # application/problem+json
    PLAIN = "plain"  # {"error": "<text>"}
    OPENAI = "openai"  # {"error": {"message", "type", "param", "code"}}


type Parameters = Mapping[str, str | tuple[str, Any]]
"""Parameters: by name what they mean, and their type if it is not any text."""


class RouteDoc(msgspec.Struct, frozen=True):
    """What the contract says of a route. `body`: the type of its JSON body, or its schema. `answers`: by
    status what it returns: a type, `bytes` for a stream of our events, another media type, None for no body.
    Both may be several. `refuses`: statuses beside those that follow from method, scope and body. `shapes`:
    how refusals may look too, where several families share a route. `example`: a body that works.
    """

    summary: str
    body: Any = None
    answers: Mapping[int, Any] = msgspec.field(default_factory=dict)
    query: Parameters = msgspec.field(default_factory=dict)
    headers: Parameters = msgspec.field(default_factory=dict)
    tag: str = ""
    refuses: Sequence[int] = ()
    shapes: Sequence[ErrorFormat] = ()
    example: Any = None


class Route(msgspec.Struct, frozen=True):
    """`scope` None: anybody may call it, and nothing of anybody's is behind it."""

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    says: RouteDoc
    shape: ErrorFormat = ErrorFormat.PROBLEM


AGENT_HEADER: Parameters = {
    "x-agent-id": (
        "The agent: unsaid or empty, it is the credential's, or else the default one.",
        Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{0,64}$")],
    )
}
IDEMPOTENCY_HEADER: Parameters = {
    "Idempotency-Key": (
        "The request's name: repeated with it, it is the same request.",
        Annotated[str, Meta(pattern="^[!-~]{1,255}$")],
    )
}
ROUTES: web.AppKey[Mapping[Handler, Route]] = web.AppKey("routes", dict)
ERROR_FORMAT: web.RequestKey[ErrorFormat] = web.RequestKey("shape", ErrorFormat)
"""Set by a route that several families share, once it knows whose request it is."""


def mount(app: web.Application, routes: tuple[Route, ...]) -> None:
    """Add routes to an application that has none of them. A handler stands for one route's rules only."""
    known: dict[Handler, Route] = {}
    for route in routes:
        app.router.add_route(route.method, route.path, route.handler)
        known[route.handler] = known.get(route.handler, route)
        if (known[route.handler].scope, known[route.handler].shape) != (route.scope, route.shape):
            raise ValueError(f"{route.path}: one handler, two rules")
    app[ROUTES] = known


def route_of(request: web.Request) -> Route | None:
    """The route that was matched; None if there is none."""
    return request.app[ROUTES].get(request.match_info.handler)


def error_format_of(request: web.Request) -> ErrorFormat:
    """How this request wants to be refused."""
    route = route_of(request)
    known: ErrorFormat | None = request.get(ERROR_FORMAT)
    return known or (ErrorFormat.PROBLEM if route is None else route.shape)
