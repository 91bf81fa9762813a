"""Generates the OpenAPI 3.1 document from the routes and from the structs that validate their bodies. Pure.

What a route takes and returns is in its `RouteDoc`. Its error responses follow from its method, scope, body
and error format.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from rejoin_adapters.ports.webhooks import WEBHOOK_EVENTS, WebhookBody
from rejoin_gateway.http.routes import EVENT_STREAM, PLAIN_TEXT, ErrorFormat, Route
from rejoin_protocol.events.chunks import Data, Tagged
from rejoin_protocol.limits import ID_CHARS_MAX

REFS = "#/components/schemas/{name}"
CHUNKS = "#/components/schemas/Chunk{name}"
EVENTS: Sequence[Any] = (Tagged.__value__, Data)
SESSION_ID_SCHEMA = {
    "type": "string",
    "minLength": 1,
    "maxLength": ID_CHARS_MAX,
    "pattern": r"^[^\s\u0000-\u001f\u007f/\\]([^\u0000-\u001f\u007f/\\]*[^\s\u0000-\u001f\u007f/\\])?$",
    "examples": ["trip-1", "user:123"],
}
ANY_ID = {"type": "string", "minLength": 1, "maxLength": 200}
PATHS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "agent": (
        "The agent's name",
        {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$", "examples": ["demo"]},
    ),
    "session": ("The session's id, chosen by the caller; percent-encoded", SESSION_ID_SCHEMA),
    "id": ("The object's id", ANY_ID),
    "run": ("The run's id, `run_…`", ANY_ID),
    "call": ("The tool call's id", {"type": "string", "minLength": 1, "maxLength": ID_CHARS_MAX}),
    "file": ("A file's name", ANY_ID),
    "response": ("The response's id, `resp_…`", ANY_ID),
}
SESSIONS = (
    "/ag-ui/{agent}/threads/",
    "/api/chat/",
    "/api/threads/",
    "/run/api/chat/",
    "/run/v1/conversations/",
)
"""Path prefixes under which `{id}` is a session's id."""
type Cursor = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})$")]
type Place = Annotated[int, Meta(ge=-(10**12) + 1, le=10**12 - 1)]
POSITION: Mapping[str, tuple[str, str, Any]] = {
    "Last-Event-ID": (
        "header",
        "The cursor (`id:`) of the last event received. The stream continues after it.",
        Cursor,
    ),
    "cursor": ("query", "As `Last-Event-ID`.", Cursor),
    "x-stream-start-index": (
        "header",
        "How many events were received; -n: stream only the last n events.",
        Place,
    ),
    "startIndex": ("query", "As `x-stream-start-index`.", Place),
    "afterIdx": ("query", "Index of the last event received, counted from 0.", Place),
    "follow": (
        "query",
        "`true`: the stream stays open while the run waits for approvals.",
        str,
    ),
}
VIEW_PARAMETERS: Mapping[str, tuple[str, str, Any]] = {
    "x-emit-operations": (
        "header",
        "`true`: the stream includes operation events.",
        str,
    ),
    "ui": (
        "query",
        "The client's AI SDK: it receives what this major version knows. Default: 6, and `reset-step`.",
        Literal["7", "6", "5"],
    ),
}
SESSION_HEADER_DOC = "The session's id; `%` and all that is not ASCII is percent-encoded."
STREAM_HEADER_DOCS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "x-workflow-run-id": (
        "The run's id; in the response to a decision with the turn that it begins with, `run_….1`.",
        {"type": "string"},
    ),
    "X-Thread-Id": (SESSION_HEADER_DOC, SESSION_ID_SCHEMA),
    "x-conversation-id": (SESSION_HEADER_DOC, SESSION_ID_SCHEMA),
    "x-workflow-stream-tail-index": (
        "Index of the last stored event, for positions counted from the end.",
        {"type": "integer"},
    ),
    "x-vercel-ai-ui-message-stream": ("Version of the stream protocol.", {"const": "v1"}),
    "x-vercel-ai-data-stream": ("As above, for older clients.", {"const": "v2"}),
}
RETRY = {
    "Retry-After": {
        "description": "Seconds to wait before the next try.",
        "schema": {"type": "integer", "minimum": 1},
    }
}
STRING = {"type": "string"}
CHALLENGE = {"WWW-Authenticate": {"description": "`Bearer`.", "schema": STRING}}
TEXT_MEANING = (
    "The answer's text as it grows, without reasoning and tools, for a client whose `Accept` is `text/plain` "
    "and nothing else. Of a typed answer, its JSON. A failure breaks the connection, or is a 500 with its "
    "text if there was no text before."
)
FRAMES = (
    "Server-sent events of this schema. The last event's data is `[DONE]`, of AG-UI `RUN_FINISHED` or "
    "`RUN_ERROR`. A stream that ends without it was cut off: resume it."
)


ABOUT = """Chat with agents whose runs survive crashes and whose streams can be resumed from anywhere.

**Which API?** The *session* API is the native one. *chat* serves `useChat` of the AI SDK, *openai* serves
OpenAI's clients, *mcp* MCP clients, *ag-ui* AG-UI and CopilotKit. *run*, *parts* and *agent chat* are
compatible with existing applications. All of them work on the same sessions.

**Resume.** Every event of a stream has an `id:`. After a lost connection, request the session's stream again
with that id in the header `Last-Event-ID`.

**Request context.** An agent can declare a context: values that its tools need and the model does not see,
for example a user's token. `GET /api/agents` returns its schema. Send each property as a header of its name,
in words with `-`: property `tenant_id` or `tenantId` in header `tenant-id`. The session keeps it for later
requests. The session API also takes it in the body's field `context`, for one run, with the schema's names or
these in camelCase.
"""


TAGS: Mapping[str, str] = {
    "session": "The native API: agents, and sessions by agent and id.",
    "chat": "For `useChat` of the AI SDK.",
    "run": "Single runs (executions), conversations, artifacts and logs.",
    "parts": "Threads, and decisions by run and thread.",
    "agent chat": "For tools of administrators.",
    "openai": "For OpenAI's clients: set their base URL to `/v1`.",
    "ag-ui": "For clients of AG-UI 1.0, such as CopilotKit.",
    "mcp": "For MCP clients.",
    "webhooks": "Who is told of runs that end or wait. What receivers get: the webhooks of this description.",
    "operations": "Pages, probes, metrics and this description.",
}
"""The groups of routes, in the order in which the documentation shows them. A tag without an entry comes
last, without a description.
"""


WEBHOOK_MEANINGS = {
    "run.completed": "The run has ended, and history has its answer.",
    "run.failed": "The run has failed.",
    "run.cancelled": "The run was interrupted.",
    "run.waiting": "The run is suspended; `waitingFor` names the calls that need a decision or an output.",
}
WEBHOOK_HEADERS = {
    "webhook-id": "The same in all attempts: by it you know a repetition.",
    "webhook-timestamp": "Seconds since 1970, of this attempt.",
    "webhook-signature": "`v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, or two such.",
}


class ErrorInfo(msgspec.Struct, frozen=True):
    """The error for programs."""

    code: str
    message: str


class FieldError(msgspec.Struct, frozen=True):
    """A wrong field: what is wrong, and the JSON pointer of the field in the body."""

    detail: str
    pointer: str


class ProblemDetails(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An error response (RFC 9457)."""

    title: str
    status: int
    detail: str
    code: str
    error: ErrorInfo
    errors: list[FieldError] = []
    retry_after: int | None = None
    incident: str | None = None


class ProblemWithText(ProblemDetails, frozen=True):
    """An error response (RFC 9457) whose `error` is its text, for clients that read it there."""

    error: str  # type: ignore[assignment]


class PlainError(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An error in one sentence."""

    error: str
    retry_after: int | None = None
    incident: str | None = None


class OpenAIErrorDetails(msgspec.Struct, frozen=True):
    """The error in OpenAI's format."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct, frozen=True):
    """An error response in OpenAI's format."""

    error: OpenAIErrorDetails


ERROR_FORMATS: Mapping[ErrorFormat, tuple[str, type[msgspec.Struct]]] = {
    ErrorFormat.PROBLEM: ("application/problem+json", ProblemDetails),
    ErrorFormat.PROBLEM_WITH_TEXT: ("application/problem+json", ProblemWithText),
    ErrorFormat.PLAIN: ("application/json", PlainError),
    ErrorFormat.OPENAI: ("application/json", OpenAIError),
}


def openapi_document(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The OpenAPI document. Raises `ValueError` if two types have the same name."""
    types = list(dict.fromkeys(kind for route in routes for kind in _body_types(route)))
    _, components = msgspec.json.schema_components([*types, *_error_types(), WebhookBody], ref_template=REFS)
    chunk, chunks = _event_schemas()
    if ambiguous := [name for name in components if "." in name]:
        raise ValueError(f"several types have the same name: {ambiguous}")
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rejoin",
            "version": version,
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": _tags(routes),
        "paths": paths,
        "webhooks": _webhooks(),
        "components": {
            "schemas": components | chunks | {"UIMessageChunk": chunk},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key (`id.secret`) or a JSON web token. "
                    "Not needed by a gateway with `REJOIN_ALLOW_ANONYMOUS`.",
                }
            },
        },
    }


def _webhooks() -> dict[str, Any]:
    """What receivers get, by event (Standard Webhooks)."""
    body = {"$ref": REFS.format(name=WebhookBody.__name__)}
    return {event: {"post": _webhook(event, body)} for event in WEBHOOK_EVENTS}


def _webhook(event: str, body: dict[str, Any]) -> dict[str, Any]:
    return {
        "operationId": event.replace(".", "_"),
        "summary": WEBHOOK_MEANINGS[event],
        "tags": ["webhooks"],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "description": text,
                "schema": {"type": "string"},
            }
            for name, text in WEBHOOK_HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "2XX": {"description": "Received. The session's next event is sent."},
            "410": {"description": "The receiver is switched off. One of a request loses only this event."},
            "default": {
                "description": "Sent again later, for a day; not before `Retry-After`, up to four hours.",
            },
        },
    }


def _tags(routes: Sequence[Route]) -> list[dict[str, str]]:
    used = {_tag(route) for route in routes}
    names = [name for name in TAGS if name in used] + sorted(used - TAGS.keys())
    return [{"name": name, "description": TAGS.get(name, "")} for name in names]


def _error_types() -> list[type[msgspec.Struct]]:
    return [kind for _, kind in ERROR_FORMATS.values()]


def _body_types(route: Route) -> Iterable[Any]:
    kinds = [
        *_as_sequence(route.doc.body),
        *(
            kind_of_response
            for kind in route.doc.responses.values()
            for kind_of_response in _as_sequence(kind)
        ),
    ]
    return [kind for kind in kinds if _is_json(kind)]


def _as_sequence(kind: Any) -> Sequence[Any]:
    return () if kind is None else kind if isinstance(kind, list | tuple) else (kind,)


def _is_json(kind: Any) -> bool:
    """Whether it is a type: not `bytes` (a stream), a media type or a schema."""
    return kind is not bytes and not isinstance(kind, str | Mapping)


def _schema(kind: Any) -> dict[str, Any]:
    if isinstance(kind, Mapping):
        return dict(kind)
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=REFS)
    return schema


def _event_schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of an event, and the components that it refers to, prefixed with `Chunk`."""
    (tagged, own), components = msgspec.json.schema_components(EVENTS, ref_template=CHUNKS)
    components["Data"]["properties"]["type"]["pattern"] = "^data-"  # as the decoder requires
    named = {f"Chunk{name}": schema for name, schema in components.items()}
    return {"description": "An event: an AI SDK UI message chunk.", "anyOf": [*tagged["anyOf"], own]}, named


def _tag(route: Route) -> str:
    return route.doc.tag or "operations"


def _operation(route: Route) -> dict[str, Any]:
    doc = route.doc
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": doc.summary,
        "description": doc.description,
        "tags": [_tag(route)],
        "security": [] if route.scope is None else [{"bearer": [route.scope.value]}],
        "parameters": _parameters(route),
        "responses": _responses(route),
    }
    if scope := route.scope:
        operation["description"] += f"\n\nNeeds a credential with the scope `{scope.value}`."
    bodies = [_schema(kind) for kind in _as_sequence(doc.body)]
    if bodies and not doc.body_required:
        bodies.append({"type": "null"})  # some clients write that for no body
    if bodies:
        content: dict[str, Any] = {"schema": bodies[0] if len(bodies) == 1 else {"anyOf": bodies}}
        if doc.example is not None:
            content["example"] = doc.example
        operation["requestBody"] = {"required": doc.body_required, "content": {"application/json": content}}
    return operation


def _operation_id(route: Route) -> str:
    words = [word.strip("{}") for word in route.path.replace(".", "/").split("/") if word]
    return "_".join([route.method.lower(), *words]).replace("-", "_")


def _is_stream(route: Route) -> bool:
    return bytes in _as_sequence(route.doc.responses.get(HTTPStatus.OK))


def _parameters(route: Route) -> list[dict[str, Any]]:
    names = [piece[1:-1] for piece in route.path.split("/") if piece.startswith("{")]
    parameters = [_path_parameter(route, name) for name in names]
    stream_parameters = (
        {}
        if not _is_stream(route)
        else VIEW_PARAMETERS
        if route.method == "POST"
        else {**POSITION, **VIEW_PARAMETERS}
    )
    parameters += [
        _optional_parameter(place, name, meaning, kind)
        for name, (place, meaning, kind) in stream_parameters.items()
    ]
    for place, documented in (("query", route.doc.query), ("header", route.doc.headers)):
        for name, entry in documented.items():
            meaning, kind = (entry, str) if isinstance(entry, str) else entry
            parameters.append(_optional_parameter(place, name, meaning, kind))
    return parameters


def _path_parameter(route: Route, name: str) -> dict[str, Any]:
    if name not in PATHS:
        raise ValueError(f"{route.path}: describe the path parameter {{{name}}} in PATHS of {__name__}")
    meaning, schema = PATHS[name]
    if name == "id" and route.path.startswith(SESSIONS):
        meaning, schema = PATHS["session"]
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}


def _optional_parameter(place: str, name: str, meaning: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "in": place, "description": meaning, "schema": _schema(kind)}


def _responses(route: Route) -> dict[str, Any]:
    documented = route.doc.responses.items()
    responses = {str(int(status)): _success(kind, route.doc.response_headers) for status, kind in documented}
    for status in _error_statuses(route):
        success, error = responses.get(str(status.value), {}), _error(status, route)
        content = {**error["content"], **success.get("content", {})}
        responses[str(status.value)] = error | {"content": content}
    return dict(sorted(responses.items()))


def _success(kind: Any, headers: Mapping[str, str]) -> dict[str, Any]:
    kinds, named = _as_sequence(kind), {name: (meaning, STRING) for name, meaning in headers.items()}
    response: dict[str, Any] = {"description": "Success." if kinds else "Success, without a body."}
    content: dict[str, Any] = {}
    schemas = [_schema(item) for item in kinds if _is_json(item)]
    if schemas:
        content["application/json"] = {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}
    for media_type in (item for item in kinds if isinstance(item, str)):
        content[media_type] = {"schema": _text_schema(media_type)} if media_type.startswith("text/") else {}
    if bytes in kinds:
        chunk = {"$ref": REFS.format(name="UIMessageChunk")}
        content[PLAIN_TEXT] = {"schema": {"type": "string", "description": TEXT_MEANING}}
        content[EVENT_STREAM] = {"schema": _sse_schema({"id": _schema(Cursor)}, chunk)}
        named |= STREAM_HEADER_DOCS
    described = {name: {"description": meaning, "schema": of} for name, (meaning, of) in named.items()}
    members = {"headers": described, "content": content}
    return response | {name: member for name, member in members.items() if member}


def _text_schema(media_type: str) -> dict[str, Any]:
    is_stream = media_type == EVENT_STREAM
    return _sse_schema({"event": {"type": "string"}}, {}) if is_stream else {"type": "string"}


def _sse_schema(fields: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a server-sent event with these fields."""
    json = {"type": "string", "contentMediaType": "application/json", "contentSchema": dict(data)}
    return {
        "type": "object",
        "description": FRAMES,
        "properties": {**fields, "data": {"anyOf": [{"const": "[DONE]"}, json]}},
        "required": ["data"],
    }


def _error_statuses(route: Route) -> list[HTTPStatus]:
    """The error statuses that follow from a route's rules, and those of its documentation."""
    doc, has_path_parameter = route.doc, "{" in route.path
    statuses = [HTTPStatus.INTERNAL_SERVER_ERROR, *(HTTPStatus(status) for status in doc.error_statuses)]
    if not route.path.startswith("/health/"):  # these are answered while the gateway stops
        statuses.append(HTTPStatus.SERVICE_UNAVAILABLE)
    if has_path_parameter or doc.body is not None:
        statuses.append(HTTPStatus.NOT_FOUND)
    if route.scope is not None:
        statuses += [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS]
        if has_path_parameter or doc.query:
            statuses.append(HTTPStatus.BAD_REQUEST)
    if doc.body is not None:
        statuses += [
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        ]
    if route.streams:
        statuses.append(HTTPStatus.GONE)
    return statuses


def _error(status: HTTPStatus, route: Route) -> dict[str, Any]:
    by_media_type: dict[str, list[dict[str, Any]]] = {}
    for format in dict.fromkeys((route.error_format, *route.doc.error_formats)):
        media_type, kind = ERROR_FORMATS[format]
        by_media_type.setdefault(media_type, []).append({"$ref": REFS.format(name=kind.__name__)})
    can_be_text = _is_stream(route) or PLAIN_TEXT in _as_sequence(route.doc.responses.get(HTTPStatus.OK))
    has_text = can_be_text and status is HTTPStatus.INTERNAL_SERVER_ERROR
    content: dict[str, Any] = {PLAIN_TEXT: {"schema": {"type": "string"}}} if has_text else {}
    content |= {
        media_type: {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}
        for media_type, refs in by_media_type.items()
    }
    response: dict[str, Any] = {"description": status.phrase, "content": content}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        response["headers"] = RETRY
    elif status is HTTPStatus.UNAUTHORIZED:
        response["headers"] = CHALLENGE
    return response
