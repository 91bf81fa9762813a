"""The context headers of agents in the OpenAPI document."""

from typing import Any

from rejoin_gateway.app import ROUTES
from rejoin_gateway.http.context_headers import with_context_headers
from rejoin_gateway.http.openapi import openapi_document
from rejoin_gateway.ui.docs import context_headers
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry

SEND = "/api/agents/{agent}/{session}"


def entry(name: str, **properties: Any) -> AgentEntry:
    schema = {"type": "object", "properties": properties, "required": ["tenant_id"]}
    return AgentEntry(AgentName(name), context_schema=schema)


def header_parameters(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    parameters = document["paths"][path][method]["parameters"]
    return {one["name"]: one for one in parameters if one["in"] == "header"}


def test_routes_that_send_messages_list_the_headers_of_the_agents() -> None:
    document = openapi_document(ROUTES, version="1")
    agents = [
        entry(
            "clerk", tenant_id={"type": "string", "description": "Whose files."}, dry_run={"type": "boolean"}
        ),
        entry("editor", tenant_id={"type": "string"}),
        AgentEntry(AgentName("demo")),
    ]
    changed = with_context_headers(document, ROUTES, context_headers(agents))
    headers = header_parameters(changed, SEND, "post")
    assert headers["tenant-id"]["description"] == (
        "Context of agent `clerk`, required. Whose files. Context of agent `editor`, required."
    )
    assert headers["dry-run"] == {
        "name": "dry-run",
        "in": "header",
        "description": "Context of agent `clerk`.",
        "schema": {"type": "boolean"},
    }
    for path in ("/api/chat", "/run/api/chat", "/run/v1/responses", "/run/v1/chat/completions", "/v1/mcp"):
        assert "tenant-id" in header_parameters(changed, path, "post"), path
    assert "tenant-id" not in header_parameters(changed, SEND, "get")
    assert "tenant-id" not in header_parameters(document, SEND, "post")


def test_without_such_agents_the_document_stays_as_it_is() -> None:
    document = openapi_document(ROUTES, version="1")
    headers = context_headers([AgentEntry(AgentName("demo"))])
    assert with_context_headers(document, ROUTES, headers) is document
