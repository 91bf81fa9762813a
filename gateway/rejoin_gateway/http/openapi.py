"""The contract: OpenAPI 3.1 from the routes and from the structs that validate their bodies. Pure.

Nothing is written twice: what a route takes and gives stands in its `RouteDoc`, what may be refused follows
from its method, its scope and its shape.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from rejoin_protocol.events.chunks import Data, Tagged
from rejoin_protocol.ids import MESSAGE_ID_CHARS_MAX

from rejoin_gateway.http.routes import ErrorFormat, Route

REFS = "#/components/schemas/{name}"
CHUNKS = "#/components/schemas/Chunk{name}"
STREAM = "text/event-stream"
EVENTS: Sequence[Any] = (Tagged.__value__, Data)
SESSION = {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$", "examples": ["trip-1"]}
ANY_ID = {"type": "string", "minLength": 1, "maxLength": 200}
PATHS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "agent": (
        "The agent's name",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "examples": ["demo"]},
    ),
    "session": ("The session's id, chosen by the caller", SESSION),
    "id": ("Its id", ANY_ID),
    "run": ("The run's id, `run_…`", ANY_ID),
    "call": ("The tool call's id", {"type": "string", "minLength": 1, "maxLength": MESSAGE_ID_CHARS_MAX}),
    "file": ("A file's name", ANY_ID),
    "response": ("The response's id, `resp_…`", ANY_ID),
}
SESSIONS = ("/api/chat/", "/api/threads/", "/run/v1/conversations/")
"""Where `{id}` is a session's."""
type Cursor = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})$")]
type Place = Annotated[int, Meta(ge=-(10**12) + 1, le=10**12 - 1)]
POSITION: Mapping[str, tuple[str, str, Any]] = {
    "Last-Event-ID": (
        "header",
        "The cursor (`id:`) of the last event that arrived: what follows it.",
        Cursor,
    ),
    "cursor": ("query", "The same, as a parameter.", Cursor),
    "x-stream-start-index": ("header", "How many events have arrived; -n: only the last n.", Place),
    "startIndex": ("query", "The same, as a parameter.", Place),
    "afterIdx": ("query", "Number of the last event that arrived, from 0.", Place),
    "follow": ("query", "`true`: stay over a suspension, until the run is over.", str),
}
VIEW: Mapping[str, tuple[str, str, Any]] = {
    "x-emit-operations": ("header", "`true`: every operation, not only those that everybody gets.", str),
    "ui": ("query", "The major version of the client's AI SDK.", Literal["7", "6", "5"]),
}
STREAM_HEADERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "x-workflow-run-id": ("The run.", {"type": "string"}),
    "X-Thread-Id": ("The session.", SESSION),
    "x-conversation-id": ("The session.", SESSION),
    "x-workflow-stream-tail-index": (
        "The number of the last event, if counted from the end.",
        {"type": "integer"},
    ),
    "x-vercel-ai-ui-message-stream": ("The protocol.", {"const": "v1"}),
    "x-vercel-ai-data-stream": ("The protocol, by its older name.", {"const": "v2"}),
}
RETRY = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}}
CHALLENGE = {"WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}}
FRAMES = (
    "Server-sent events, each as this schema says. The data of the last is `[DONE]`: a stream that ends "
    "without it was cut off, and is to be rejoined."
)


class ErrorInfo(msgspec.Struct, frozen=True):
    """What went wrong, for programs."""

    code: str
    message: str


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong, and where: a JSON pointer into the body."""

    detail: str
    pointer: str


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """RFC 9457."""

    title: str
    status: int
    detail: str
    code: str
    error: ErrorInfo
    errors: list[FieldError] = []
    retry_after: int | None = None
    incident: str | None = None


class PlainError(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An error in one sentence."""

    error: str
    retry_after: int | None = None
    incident: str | None = None


class OpenAIErrorDetails(msgspec.Struct, frozen=True):
    """What went wrong, as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct, frozen=True):
    """An error as OpenAI's clients read it."""

    error: OpenAIErrorDetails


SHAPES: Mapping[ErrorFormat, tuple[str, type[msgspec.Struct]]] = {
    ErrorFormat.PROBLEM: ("application/problem+json", ProblemDetails),
    ErrorFormat.PLAIN: ("application/json", PlainError),
    ErrorFormat.OPENAI: ("application/json", OpenAIError),
}


def openapi_document(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The whole document. Raises `ValueError` for two types of one name."""
    types = list(dict.fromkeys(kind for route in routes for kind in _types(route)))
    _, components = msgspec.json.schema_components([*types, *_errors()], ref_template=REFS)
    chunk, chunks = _chunks()
    if unclear := [name for name in components if "." in name]:
        raise ValueError(f"types of one name: {unclear}")
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
        "tags": [{"name": name} for name in dict.fromkeys(_tag(route) for route in routes)],
        "paths": paths,
        "components": {
            "schemas": components | chunks | {"UIMessageChunk": chunk},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (`id.secret`) or a JSON web token. Not asked for by a gateway "
                    "that lets everybody in, on one's own machine.",
                }
            },
        },
    }


def _errors() -> list[type[msgspec.Struct]]:
    return [kind for _, kind in SHAPES.values()]


def _types(route: Route) -> Iterable[Any]:
    said = [
        *_several(route.doc.body),
        *(one for kind in route.doc.responses.values() for one in _several(kind)),
    ]
    return [kind for kind in said if _is_json(kind)]


def _several(kind: Any) -> Sequence[Any]:
    return () if kind is None else kind if isinstance(kind, list | tuple) else (kind,)


def _is_json(kind: Any) -> bool:
    """Whether it is a type, and not a stream's mark, a media type or a schema."""
    return kind is not bytes and not isinstance(kind, str | Mapping)


def _schema(kind: Any) -> dict[str, Any]:
    if isinstance(kind, Mapping):
        return dict(kind)
    (found,), _ = msgspec.json.schema_components([kind], ref_template=REFS)
    return found


def _chunks() -> tuple[dict[str, Any], dict[str, Any]]:
    """An event, and the components that it refers to, under names of their own."""
    (tagged, own), components = msgspec.json.schema_components(EVENTS, ref_template=CHUNKS)
    components["Data"]["properties"]["type"]["pattern"] = "^data-"  # as its decoder wants it
    named = {f"Chunk{name}": schema for name, schema in components.items()}
    return {"description": "An event: an AI SDK UI message chunk.", "anyOf": [*tagged["anyOf"], own]}, named


def _tag(route: Route) -> str:
    return route.doc.tag or "operations"


def _operation(route: Route) -> dict[str, Any]:
    says = route.doc
    found: dict[str, Any] = {
        "operationId": _name(route),
        "summary": says.summary,
        "description": says.description,
        "tags": [_tag(route)],
        "security": [] if route.scope is None else [{"bearer": [route.scope.value]}],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if scope := route.scope:
        found["description"] += f"\n\nNeeds a credential with the scope `{scope.value}`."
    bodies = [_schema(kind) for kind in _several(says.body)]
    if bodies:
        content: dict[str, Any] = {"schema": bodies[0] if len(bodies) == 1 else {"anyOf": bodies}}
        if says.example is not None:
            content["example"] = says.example
        found["requestBody"] = {"required": True, "content": {"application/json": content}}
    return found


def _name(route: Route) -> str:
    words = [word.strip("{}") for word in route.path.replace(".", "/").split("/") if word]
    return "_".join([route.method.lower(), *words]).replace("-", "_")


def _streams(route: Route) -> bool:
    return bytes in _several(route.doc.responses.get(HTTPStatus.OK))


def _parameters(route: Route) -> list[dict[str, Any]]:
    names = [piece[1:-1] for piece in route.path.split("/") if piece.startswith("{")]
    found = [_path(route, name) for name in names]
    known = {} if not _streams(route) else VIEW if route.method == "POST" else {**POSITION, **VIEW}
    found += [_optional(place, name, meaning, kind) for name, (place, meaning, kind) in known.items()]
    for place, named in (("query", route.doc.query), ("header", route.doc.headers)):
        for name, said in named.items():
            meaning, kind = (said, str) if isinstance(said, str) else said
            found.append(_optional(place, name, meaning, kind))
    return found


def _path(route: Route, name: str) -> dict[str, Any]:
    meaning, schema = PATHS[name]
    if name == "id" and route.path.startswith(SESSIONS):
        meaning, schema = PATHS["session"]
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}


def _optional(place: str, name: str, meaning: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "description": meaning, "schema": _schema(kind)}


def _responses(route: Route) -> dict[str, Any]:
    found = {str(int(status)): _answer(kind) for status, kind in route.doc.responses.items()}
    for status in _refusals(route):
        known, refusal = found.get(str(status.value), {}), _refusal(status, route)
        content = {**refusal["content"], **known.get("content", {})}
        found[str(status.value)] = refusal | {"content": content}
    return dict(sorted(found.items()))


def _answer(kind: Any) -> dict[str, Any]:
    kinds = _several(kind)
    found: dict[str, Any] = {"description": "As asked." if kinds else "Done."}
    content: dict[str, Any] = {}
    schemas = [_schema(one) for one in kinds if _is_json(one)]
    if schemas:
        content["application/json"] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    for media_type in (one for one in kinds if isinstance(one, str)):
        content[media_type] = {"schema": _text(media_type)} if media_type.startswith("text/") else {}
    if bytes in kinds:
        chunk = {"$ref": REFS.format(name="UIMessageChunk")}
        content[STREAM] = {"schema": _event({"id": _schema(Cursor)}, chunk)}
        found["headers"] = {
            name: {"description": meaning, "schema": schema}
            for name, (meaning, schema) in STREAM_HEADERS.items()
        }
    return found | ({"content": content} if content else {})


def _text(media_type: str) -> dict[str, Any]:
    return {"type": "string"} if media_type != STREAM else _event({"event": {"type": "string"}}, {})


def _event(fields: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """One of a stream's events, as a schema of its fields."""
    json = {"type": "string", "contentMediaType": "application/json", "contentSchema": dict(data)}
    return {
        "type": "object",
        "description": FRAMES,
        "properties": {**fields, "data": {"anyOf": [{"const": "[DONE]"}, json]}},
        "required": ["data"],
    }


def _refusals(route: Route) -> list[HTTPStatus]:
    """What follows from a route's rules, and what it says itself."""
    says, named = route.doc, "{" in route.path
    found = [HTTPStatus.INTERNAL_SERVER_ERROR, *(HTTPStatus(status) for status in says.error_statuses)]
    if not route.path.startswith("/health/"):  # which are answered until the end
        found.append(HTTPStatus.SERVICE_UNAVAILABLE)
    if named or says.body is not None:
        found.append(HTTPStatus.NOT_FOUND)
    if route.scope is not None:
        found += [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS]
        if named or says.body is not None or says.query:
            found.append(HTTPStatus.BAD_REQUEST)
    if says.body is not None:
        found += [HTTPStatus.CONFLICT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE]
    if _streams(route) or STREAM in _several(says.responses.get(HTTPStatus.OK)):
        found.append(HTTPStatus.GONE)
    return found


def _refusal(status: HTTPStatus, route: Route) -> dict[str, Any]:
    known: dict[str, list[dict[str, Any]]] = {}
    for shape in dict.fromkeys((route.error_format, *route.doc.error_formats)):
        media_type, kind = SHAPES[shape]
        known.setdefault(media_type, []).append({"$ref": REFS.format(name=kind.__name__)})
    content = {
        media_type: {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}
        for media_type, refs in known.items()
    }
    found: dict[str, Any] = {"description": status.phrase, "content": content}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        found["headers"] = RETRY
    elif status is HTTPStatus.UNAUTHORIZED:
        found["headers"] = CHALLENGE
    return found
