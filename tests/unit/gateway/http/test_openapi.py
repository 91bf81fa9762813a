"""The OpenAPI document is valid and describes the requests, responses and errors of every route."""

from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from rejoin_adapters.ports.webhooks import WEBHOOK_EVENTS
from rejoin_gateway.app import ROUTES
from rejoin_gateway.auth.scope import Scope
from rejoin_gateway.http.errors import ErrorDetails, render_error
from rejoin_gateway.http.openapi import openapi_document
from rejoin_gateway.http.routes import IDEMPOTENCY_HEADER, ErrorFormat, Route, RouteDoc
from rejoin_protocol.events import chunks
from rejoin_protocol.security.webhook_signature import sign


class Asked(msgspec.Struct):
    text: str


class Given(msgspec.Struct):
    id: str


async def answer(request: web.Request) -> web.StreamResponse:
    """Answers."""
    raise NotImplementedError(request)


def document(*routes: Route) -> Any:
    return openapi_document(routes or ROUTES, version="1.2.3")


def operation(
    method: str, path: str, scope: Scope | None, says: RouteDoc, shape: ErrorFormat = ErrorFormat.PROBLEM
) -> Any:
    made = document(Route(method, path, answer, scope, says, shape))
    return made["paths"][path][method.lower()]


def operations() -> list[tuple[str, Any]]:
    paths = document()["paths"]
    return [(f"{method} {path}", one) for path, methods in paths.items() for method, one in methods.items()]


def validator(made: Any, schema: Any) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": made["components"]})


def references(value: Any) -> set[str]:
    match value:
        case {"$ref": str(found), **rest}:
            return {found} | references(rest)
        case dict():
            return set().union(*(references(one) for one in value.values()))
        case list():
            return set().union(*(references(one) for one in value))
        case _:
            return set()


def test_what_receivers_of_webhooks_get_is_in_it() -> None:
    made = document()
    assert tuple(made["webhooks"]) == WEBHOOK_EVENTS
    names = [one["post"]["operationId"] for one in made["webhooks"].values()]
    assert len(set(names) | {one["operationId"] for _, one in operations()}) == len(names) + len(ROUTES)
    for one in made["webhooks"].values():
        assert {given["name"] for given in one["post"]["parameters"]} == set(sign([], "msg_1", 0, b""))
        schema = one["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": "#/components/schemas/WebhookBody"}
    usage: dict[str, Any] = {"inputTokens": 1, "outputTokens": 2, "costUsd": None}
    data: dict[str, Any] = {"run": "run_1", "session": "s", "agent": "a", "user": None, "message": "m"}
    data |= {"state": "completed", "turn": 0, "usage": usage, "waitingFor": None}
    body = {"type": "run.completed", "timestamp": "2026-01-31T12:00:00+00:00", "data": data}
    assert validator(made, schema).is_valid(body)
    assert not validator(made, schema).is_valid(body | {"type": "run.begun"})


def test_every_route_is_in_it_under_a_name_of_its_own() -> None:
    made = document()
    known = {(route.method.lower(), route.path) for route in ROUTES}
    assert {(method, path) for path, methods in made["paths"].items() for method in methods} == known
    names = [one["operationId"] for _, one in operations()]
    assert len(names) == len(set(names)) == len(ROUTES)
    assert made["openapi"] == "3.1.0"
    assert made["info"]["version"] == "1.2.3"
    assert msgspec.json.decode(msgspec.json.encode(made)) == made


def test_every_route_says_what_it_gives() -> None:
    for name, one in operations():
        good = [status for status in one["responses"] if status.startswith("2")]
        assert good, name
        assert all("content" in one["responses"][status] or status in {"202", "204"} for status in good), name
        assert one["summary"], name
        assert one["description"], name


def test_every_reference_leads_somewhere_and_every_schema_is_one() -> None:
    made = document()
    schemas = made["components"]["schemas"]
    assert {one.rpartition("/")[2] for one in references(made)} <= set(schemas)
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)


def test_every_example_is_of_its_schema() -> None:
    made = document()
    for name, one in operations():
        content = one.get("requestBody", {}).get("content", {}).get("application/json", {})
        assert ("example" in content) == bool(content), name
        if content:
            validator(made, content["schema"]).validate(content["example"])


def test_who_may_call_is_said_with_the_scope() -> None:
    closed = operation("GET", "/a", Scope.APPROVE, RouteDoc("A", None, {200: Given}))
    assert closed["security"] == [{"bearer": ["approve"]}]
    assert {"401", "403", "429"} <= set(closed["responses"])
    assert closed["responses"]["401"]["headers"]["WWW-Authenticate"]
    opened = operation("GET", "/a", None, RouteDoc("A", None, {200: Given}))
    assert opened["security"] == []
    assert not {"401", "403", "429"} & set(opened["responses"])


def test_headers_of_a_response_are_those_of_the_route_and_of_streams() -> None:
    said = {"X-Said": "What was said."}
    plain = operation("GET", "/a", Scope.CHAT, RouteDoc("A", None, {200: Given}, response_headers=said))
    assert plain["responses"]["200"]["headers"] == {
        "X-Said": {"description": "What was said.", "schema": {"type": "string"}}
    }
    stream = operation("GET", "/a", Scope.CHAT, RouteDoc("A", None, {200: bytes}, response_headers=said))
    assert {"X-Said", "x-workflow-run-id"} <= stream["responses"]["200"]["headers"].keys()


@pytest.mark.parametrize("base", ["/v1", "/run/v1"])
@pytest.mark.parametrize("route", ["/chat/completions", "/responses"])
def test_the_contract_says_where_fields_without_effect_are_named(base: str, route: str) -> None:
    told = document()["paths"][base + route]["post"]["responses"]["200"]["headers"]
    assert "no effect" in told["Rejoin-Ignored"]["description"]


def test_a_body_brings_the_refusals_of_bodies() -> None:
    with_body = operation(
        "POST", "/a", Scope.CHAT, RouteDoc("A", Asked, {200: Given}, headers=IDEMPOTENCY_HEADER)
    )
    assert {"400", "404", "409", "413", "415"} <= set(with_body["responses"])
    assert with_body["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Asked"
    }
    [header] = with_body["parameters"]
    assert (header["name"], header["in"], header["schema"]["type"]) == ("Idempotency-Key", "header", "string")
    without = operation("POST", "/a", Scope.CHAT, RouteDoc("A", None, {200: Given}))
    assert not {"409", "413", "415"} & set(without["responses"])
    assert "requestBody" not in without


def test_a_body_without_a_credential_brings_them_too() -> None:
    public = operation("POST", "/a", None, RouteDoc("A", Asked, {200: Given}))
    assert {"400", "413", "415"} <= set(public["responses"])
    assert not {"401", "403", "429"} & set(public["responses"])


def test_a_stream_is_described_event_by_event() -> None:
    made = document()
    one = made["paths"]["/api/chat/{id}/stream"]["get"]
    stream = validator(made, one["responses"]["200"]["content"]["text/event-stream"]["schema"])
    stream.validate({"id": "0-0", "data": "[DONE]"})
    stream.validate({"id": "12-3", "data": '{"type":"finish"}'})
    assert not stream.is_valid({"id": "12", "data": "[DONE]"})
    assert one["responses"]["204"] == {"description": "Success, without a body."}
    assert "410" in one["responses"]
    named = {(parameter["in"], parameter["name"]) for parameter in one["parameters"]}
    assert {("header", "Last-Event-ID"), ("query", "cursor"), ("query", "ui")} <= named


@pytest.mark.parametrize(
    ("chunk", "known"),
    [
        (chunks.Start("msg_1"), True),
        (chunks.TextDelta("t", "hello"), True),
        (chunks.Data("data-operation", {}), True),
        ({"type": "ping"}, False),
        ({"type": "ping", "data": 1}, False),
        ({"type": "text-delta", "id": "t"}, False),
        ({"type": "text-delta", "id": "t", "delta": None}, False),
    ],
    ids=str,
)
def test_an_event_is_of_the_schema_of_events(chunk: Any, known: bool) -> None:
    made = document()
    event = validator(made, {"$ref": "#/components/schemas/UIMessageChunk"})
    assert event.is_valid(msgspec.json.decode(msgspec.json.encode(chunk))) is known


@pytest.mark.parametrize("shape", ErrorFormat)
def test_a_refusal_is_of_the_schema_of_its_family(shape: ErrorFormat) -> None:
    made = document(Route("GET", "/a", answer, Scope.CHAT, RouteDoc("A", None, {200: Given}), shape))
    said = made["paths"]["/a"]["get"]["responses"]["429"]
    extra = {"retryAfter": 3, "incident": "req_1", "errors": [{"detail": "wrong", "pointer": "/a"}]}
    refusal = render_error(
        ErrorDetails(HTTPStatus.TOO_MANY_REQUESTS, "limited", "slow down", {}, extra), shape
    )
    assert isinstance(refusal.body, bytes)
    [(media_type, content)] = said["content"].items()
    assert media_type == refusal.content_type
    validator(made, content["schema"]).validate(msgspec.json.decode(refusal.body))
    assert said["headers"]["Retry-After"]


def test_two_types_of_one_name_are_refused() -> None:
    """A client that is made from the contract would get names that say where our code is."""
    other = msgspec.defstruct("Given", [("name", str)], module="elsewhere")
    routes = (
        Route("GET", "/a", answer, None, RouteDoc("A", None, {200: Given})),
        Route("GET", "/b", answer, None, RouteDoc("B", None, {200: other})),
    )
    with pytest.raises(ValueError, match="same name"):
        document(*routes)


def test_a_path_parameter_without_a_description_is_named() -> None:
    route = Route("GET", "/api/thing/{thing}", answer, Scope.CHAT, RouteDoc("Read a thing"))
    with pytest.raises(ValueError, match=r"^/api/thing/\{thing\}: describe the path parameter"):
        document(route)
