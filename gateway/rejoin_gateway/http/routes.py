"""A route: its handler, the scope a caller needs, the format of its errors, and its documentation.

Each family (`api/<family>`) lists its routes in `ROUTES`, `ROUTE_MODULES` in `app.py` mounts them all, and
`/openapi.json` is generated from the same list. The middleware looks up here which rules apply to a request.
Tests: `tests/api`, with transcripts in `tests/api/golden`; for users: `docs/which-api.md`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from rejoin_gateway.auth.scope import Scope
from rejoin_protocol.log.record import OperationSet

type Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ErrorFormat(StrEnum):
    """The body of a family's error responses."""

    PROBLEM = "problem"  # application/problem+json
    PLAIN = "plain"  # {"error": "<text>"}
    PROBLEM_WITH_TEXT = "problem_with_text"  # application/problem+json whose `error` is the text
    OPENAI = "openai"  # {"error": {"message", "type", "param", "code"}}


EVENT_STREAM = "text/event-stream"
"""The media type of streams of events in the format of another API: ours are `bytes`."""
PLAIN_TEXT = "text/plain"
"""The media type in which each route that streams events also answers, with their text alone."""

type Parameters = Mapping[str, str | tuple[str, Any]]
"""By name: a description, or a description and a type. A parameter without a type is a string."""


class RouteDoc(msgspec.Struct, frozen=True):
    """The documentation of a route."""

    summary: str
    body: Any = None
    """Type of the JSON body, its JSON Schema, or a list of several types."""
    responses: Mapping[int, Any] = msgspec.field(default_factory=dict)
    """Status → what it returns: a type, `bytes` for a stream of events, another media type, None for no body,
    or several of these.
    """
    query: Parameters = msgspec.field(default_factory=dict)
    headers: Parameters = msgspec.field(default_factory=dict)
    response_headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Headers of successful responses besides those of every stream, and what each says."""
    tag: str = ""
    error_statuses: Sequence[int] = ()
    """Statuses besides those that follow from method, scope and body."""
    error_formats: Sequence[ErrorFormat] = ()
    """Further error formats, where several families share the route."""
    example: Any = None
    """A body that the route accepts."""
    description: str = ""
    """What the route is for, when to use it, what it returns."""
    takes_context: bool = False
    """Whether the headers may hold the request context that an agent wants."""
    body_required: bool = True


class Route(msgspec.Struct, frozen=True):
    """`scope` None: the route needs no credential, so it must return nothing that belongs to a user."""

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    doc: RouteDoc
    error_format: ErrorFormat = ErrorFormat.PROBLEM
    takes_signed_url: bool = False
    """Whether the file `{id}` of the path may be read without a credential, by a signed URL."""
    error_format_of_fields: Callable[[Mapping[str, Any]], ErrorFormat] | None = None
    """For a route that several families share: the error format of the family to whom a body with these
    fields belongs. `error_format` then is one that every family can read; it counts while the fields are not
    known.
    """
    operation_set: OperationSet = OperationSet.NONE
    """For a route that starts runs: the operations that the streams of these runs have, on every route."""

    @property
    def streams(self) -> bool:
        """Whether it may answer with a stream of events."""
        kinds = self.doc.responses.get(200)
        listed = kinds if isinstance(kinds, tuple) else (kinds,)
        return bytes in listed or EVENT_STREAM in listed


type GivenAgent = Annotated[str, Meta(pattern="^[A-Za-z0-9_-]{0,64}$", max_length=64)]
"""An agent's name as clients send it; empty is the same as absent."""
AGENT_HEADER: Parameters = {
    "x-agent-id": (
        "The agent. Without it the agent of the credential answers, or else the default agent.",
        GivenAgent,
    )
}
IDEMPOTENCY_HEADER: Parameters = {
    "Idempotency-Key": (
        "Requests with the same key are one request: a retry starts no second run.",
        Annotated[str, Meta(pattern="^[!-~]{1,255}$")],
    )
}
OPENAI_BASES = ("/run/v1", "/v1")
"""The paths under which OpenAI's APIs are served: some clients know only the second one. They also ask there
for what does not exist, and read errors in OpenAI's format alone.
"""
_OPENAI_PATHS = tuple(f"{base}/" for base in OPENAI_BASES)
ROUTES: web.AppKey[Mapping[Handler, Route]] = web.AppKey("routes", dict)
ERROR_FORMAT: web.RequestKey[ErrorFormat] = web.RequestKey("error_format", ErrorFormat)
"""Overrides the error format of the route. Set by a route that several families share."""
OPERATION_SET: web.RequestKey[OperationSet] = web.RequestKey("operation_set", OperationSet)
"""Overrides the operations of the route, likewise."""


def mount(app: web.Application, routes: tuple[Route, ...]) -> None:
    """Add the routes to an application, each also with a slash at its end, and HEAD for each GET: aiohttp
    leaves out the body of a response to HEAD, and streams are not opened for it.

    Raises `ValueError` if one handler serves routes with different rules: the middleware finds a request's
    rules by its handler.
    """
    by_handler: dict[Handler, Route] = {}
    for route in routes:
        for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
            for path in dict.fromkeys((route.path, f"{route.path.rstrip('/')}/")):
                app.router.add_route(method, path, route.handler)
        first = by_handler.setdefault(route.handler, route)
        if (first.scope, first.error_format) != (route.scope, route.error_format):
            raise ValueError(f"{route.path}: one handler, two scopes or error formats")
    app[ROUTES] = by_handler


def route_of(request: web.Request) -> Route | None:
    """The matched route; None if the request matches none."""
    return request.app[ROUTES].get(request.match_info.handler)


def error_format_of(request: web.Request) -> ErrorFormat:
    """The format of this request's error responses."""
    route = route_of(request)
    override: ErrorFormat | None = request.get(ERROR_FORMAT)
    if route is None:
        return ErrorFormat.OPENAI if request.path.startswith(_OPENAI_PATHS) else ErrorFormat.PROBLEM
    return override or route.error_format


def operation_set_of(request: web.Request) -> OperationSet:
    """The operations of the runs that this request starts."""
    route = route_of(request)
    override: OperationSet | None = request.get(OPERATION_SET)
    return override or (OperationSet.NONE if route is None else route.operation_set)
