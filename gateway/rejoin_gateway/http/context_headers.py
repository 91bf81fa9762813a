"""The headers of agents' request contexts, as parameters of an OpenAPI document. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rejoin_gateway.http.routes import Route


class ContextHeader(NamedTuple):
    """A header in which clients send one property of an agent's request context."""

    name: str
    agent: str
    required: bool
    schema: Mapping[str, Any]


def with_context_headers(
    document: dict[str, Any], routes: Sequence[Route], headers: Sequence[ContextHeader]
) -> dict[str, Any]:
    """A copy of the document whose routes with a request context list these headers."""
    if not headers:
        return document
    parameters = _context_parameters(headers)
    paths = {path: dict(methods) for path, methods in document["paths"].items()}
    for route in routes:
        if route.doc.takes_context:
            operation = paths[route.path][route.method.lower()]
            known = {parameter["name"].casefold() for parameter in operation["parameters"]}
            added = [parameter for parameter in parameters if parameter["name"].casefold() not in known]
            with_context = operation | {"parameters": [*operation["parameters"], *added]}
            paths[route.path][route.method.lower()] = with_context
    return document | {"paths": paths}


def _context_parameters(headers: Sequence[ContextHeader]) -> list[dict[str, Any]]:
    """One parameter for each header name: several agents may want the same header."""
    parameters: dict[str, dict[str, Any]] = {}
    for header in headers:
        note = f"Context of agent `{header.agent}`" + (", required." if header.required else ".")
        about = " ".join(filter(None, [note, str(header.schema.get("description", ""))]))
        known = parameters.get(header.name.casefold())
        if known is None:
            schema = {name: value for name, value in header.schema.items() if name != "default"}
            parameters[header.name.casefold()] = {
                "name": header.name,
                "in": "header",
                "description": about,
                "schema": schema,
            }
        else:
            known["description"] += f" {about}"
    return list(parameters.values())
