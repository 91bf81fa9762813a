"""The contract: OpenAPI 3.1 from the routes and from the structs that validate their bodies. Pure.

Nothing is written twice: what a route takes and gives stands in its `Says`, what may be refused follows from
its method, its scope and its shape.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from gateway.routing import Route, Shape
from protocol.chunks import Data, Tagged
from protocol.ids import MESSAGE_ID_CHARS_MAX

REFS = "#/components/schemas/{name}"
STREAM = "text/event-stream"
EVENTS: Sequence[Any] = (Tagged.__value__, Data)
SESSION = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"}
PATHS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "agent": ("The agent's name", {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}),
    "session": ("The session's id, chosen by the caller", SESSION),
    "id": ("Its id", {"type": "string", "minLength": 1, "maxLength": 200}),
    "run": ("The run's id", {"type": "string", "minLength": 1, "maxLength": 200}),
    "call": ("The tool call's id", {"type": "string", "minLength": 1, "maxLength": MESSAGE_ID_CHARS_MAX}),
    "file": ("A file's name", {"type": "string", "minLength": 1, "maxLength": 200}),
    "response": ("The response's id, `resp_…`", {"type": "string", "minLength": 1, "maxLength": 200}),
}
CHATS = ("/api/chat/{id}/stream", "/api/chat/{id}/stop", "/api/threads/{id}", "/api/threads/{id}/fork")
"""Where `{id}` is a session's."""
POSITION = {
    "Last-Event-ID": ("header", "The cursor (`id:`) of the last event that arrived: everything after it."),
    "cursor": ("query", "The same, as a parameter."),
    "x-stream-start-index": ("header", "How many events have arrived; negative: that many from the end."),
    "startIndex": ("query", "The same, as a parameter."),
    "afterIdx": ("query", "Number of the last event that arrived, from 0."),
    "follow": ("query", "`true`: stay over a suspension, until the run is over."),
}
VIEW = {
    "x-emit-operations": ("header", "`true`: every operation, not only those that everybody gets."),
    "ui": ("query", "The client's major version: 7, 6 or 5."),
}
STREAM_HEADERS = {
    "x-workflow-run-id": "The run.",
    "X-Thread-Id": "The session.",
    "x-conversation-id": "The session.",
    "x-vercel-ai-ui-message-stream": "v1",
    "x-vercel-ai-data-stream": "v2",
}


class Fault(msgspec.Struct, frozen=True):
    """What went wrong, for programs."""

    code: str
    message: str


class Place(msgspec.Struct, frozen=True):
    """What is wrong, and where: a JSON pointer into the body."""

    detail: str
    pointer: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """RFC 9457."""

    title: str
    status: int
    detail: str
    code: str
    error: Fault
    errors: list[Place] = []
    retry_after: int | None = None
    incident: str | None = None


class Plain(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An error in one sentence."""

    error: str
    retry_after: int | None = None
    incident: str | None = None


class OpenAIFault(msgspec.Struct, frozen=True):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct, frozen=True):
    """An error as OpenAI's clients read it."""

    error: OpenAIFault


SHAPES: Mapping[Shape, tuple[str, type[msgspec.Struct]]] = {
    Shape.PROBLEM: ("application/problem+json", Problem),
    Shape.PLAIN: ("application/json", Plain),
    Shape.OPENAI: ("application/json", OpenAIError),
}


def contract(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The whole document."""
    types = list(dict.fromkeys(_types(routes)))
    _, components = msgspec.json.schema_components([*types, *_errors(), *EVENTS], ref_template=REFS)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rejoin",
            "version": version,
            "description": "Chat runs whose streams can be rejoined from anywhere.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": [{"name": name} for name in dict.fromkeys(_tag(route) for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components | {"UIMessageChunk": _chunk()},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (`id.secret`) or a JSON web token.",
                }
            },
        },
    }


def _errors() -> list[type[msgspec.Struct]]:
    return [kind for _, kind in SHAPES.values()]


def _types(routes: Iterable[Route]) -> Iterable[Any]:
    for route in routes:
        yield from _bodies(route)
        yield from (kind for kind in route.says.answers.values() if _is_json(kind))


def _bodies(route: Route) -> list[Any]:
    body = route.says.body
    if body is None:
        return []
    return list(body) if isinstance(body, list | tuple) else [body]


def _is_json(kind: Any) -> bool:
    return kind is not None and kind is not bytes and not isinstance(kind, str)


def _schema(kind: Any) -> dict[str, Any]:
    (found,), _ = msgspec.json.schema_components([kind], ref_template=REFS)
    return found


def _chunk() -> dict[str, Any]:
    tagged, own = (_schema(kind) for kind in EVENTS)
    return {"description": "An event: an AI SDK UI message chunk.", "anyOf": [*tagged["anyOf"], own]}


def _tag(route: Route) -> str:
    return route.says.tag or "operations"


def _operation(route: Route) -> dict[str, Any]:
    says = route.says
    found: dict[str, Any] = {
        "operationId": _name(route),
        "summary": says.summary,
        "tags": [_tag(route)],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if route.handler.__doc__:
        found["description"] = " ".join(route.handler.__doc__.split())
    if route.scope is None:
        found["security"] = []
    else:
        found["x-scope"] = route.scope.value
    bodies = [_schema(kind) for kind in _bodies(route)]
    if bodies:
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return found


def _name(route: Route) -> str:
    words = [word.strip("{}") for word in route.path.replace(".", "/").split("/") if word]
    return "_".join([route.method.lower(), *words]).replace("-", "_")


def _parameters(route: Route) -> list[dict[str, Any]]:
    names = [piece[1:-1] for piece in route.path.split("/") if piece.startswith("{")]
    found = [_path(route, name.partition(":")[0]) for name in names]
    streams = route.says.answers.get(HTTPStatus.OK) is bytes
    known = POSITION | VIEW if streams and route.method == "GET" else VIEW if streams else {}
    found += [_optional(place, name, meaning) for name, (place, meaning) in known.items()]
    found += [_optional("query", name, meaning) for name, meaning in route.says.query.items()]
    found += [_optional("header", name, meaning) for name, meaning in route.says.headers.items()]
    if route.scope is not None and "agent" not in names:
        found.append(_optional("header", "x-agent-id", "The agent, where nothing else names one."))
    if route.method == "POST" and streams:
        found.append(_optional("header", "Idempotency-Key", "Repeated with it, it is the same request."))
    return found


def _path(route: Route, name: str) -> dict[str, Any]:
    meaning, schema = PATHS[name]
    if name == "id" and (route.path in CHATS or "/conversations/" in route.path):
        schema = SESSION
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}


def _optional(place: str, name: str, meaning: str) -> dict[str, Any]:
    return {"name": name, "in": place, "description": meaning, "schema": {"type": "string"}}


def _responses(route: Route) -> dict[str, Any]:
    answers = dict(route.says.answers) or {HTTPStatus.OK.value: None}
    found = {str(status): _answer(kind) for status, kind in answers.items()}
    for status in _refusals(route):
        found.setdefault(str(status.value), _refusal(status, route.shape))
    return dict(sorted(found.items()))


def _answer(kind: Any) -> dict[str, Any]:
    if kind is None:
        return {"description": "Done."}
    if kind is bytes:
        headers = {
            name: {"description": meaning, "schema": {"type": "string"}}
            for name, meaning in STREAM_HEADERS.items()
        }
        said = "Server-sent events, each `id: <cursor>` and `data: <UIMessageChunk>`; `[DONE]` is the last."
        schema = {"type": "string", "contentMediaType": STREAM, "x-event": REFS.format(name="UIMessageChunk")}
        # An acknowledgement where nothing is to be streamed, a whole answer where that was asked for.
        content = {STREAM: {"schema": schema}, "application/json": {"schema": {"type": "object"}}}
        return {"description": said, "headers": headers, "content": content}
    if isinstance(kind, str):
        return {"description": "The document.", "content": {kind: {"schema": {"type": "string"}}}}
    return {"description": "As asked.", "content": {"application/json": {"schema": _schema(kind)}}}


def _refusals(route: Route) -> list[HTTPStatus]:
    found = [HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.SERVICE_UNAVAILABLE]
    if route.scope is not None:
        found += [
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.FORBIDDEN,
            HTTPStatus.NOT_FOUND,
            HTTPStatus.TOO_MANY_REQUESTS,
        ]
    elif "{" in route.path:
        found += [HTTPStatus.NOT_FOUND]
    if route.method in {"POST", "PATCH", "PUT", "DELETE"}:
        found += [HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE]
    if route.says.answers.get(HTTPStatus.OK) is bytes:
        found += [HTTPStatus.GONE]
    return found


def _refusal(status: HTTPStatus, shape: Shape) -> dict[str, Any]:
    media_type, kind = SHAPES[shape]
    found: dict[str, Any] = {
        "description": status.phrase,
        "content": {media_type: {"schema": {"$ref": REFS.format(name=kind.__name__)}}},
    }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        found["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return found
