"""What routes read from a request: its body, its idempotency key, the client's version, agent and session."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
from aiohttp import web

from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.backend import Backend
from rejoin_gateway.core.session import AgentSession
from rejoin_gateway.http import request_body
from rejoin_gateway.http.body_shape import check_shape, needs_check
from rejoin_gateway.http.cors import address_for_page
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE
from rejoin_gateway.http.routes import operation_set_of
from rejoin_gateway.streaming.client_view import client_view
from rejoin_protocol import json_input
from rejoin_protocol.errors import Invalid, NotFound
from rejoin_protocol.ids import AgentName, agent_name, session_id
from rejoin_protocol.log.record import View

JSON_TYPES = frozenset({"application/json", "text/plain", "application/octet-stream"})
"""Content types accepted for JSON: `fetch` with a string sends text/plain, some clients send no type."""
AGENT_HEADERS = ("x-agent-id", "x-inkeep-agent-id", "x-inkeep-graph-id")
"""Headers that name the agent; the first one that is set counts. Clients of the run API send the last two."""
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def read_body(request: web.Request) -> bytes:
    """The bytes of a body that will be decoded. Raises `Invalid` if that would take too much memory, and
    as `request_body.read`.
    """
    service, tenant = request.app[SERVICE], request[PRINCIPAL].owner.tenant
    body = await request_body.read(request, service.large_bodies, tenant)
    if needs_check(body):
        await asyncio.to_thread(check_shape, body)
    return body


async def decode_body[T](request: web.Request, kind: type[T]) -> T:
    """The JSON body as `kind`. Raises `Invalid` with a JSON pointer, HTTP 415, and as `read_body`."""
    return decode_json(request, await _read_json(request), kind)


async def decode_optional_body[T](request: web.Request, kind: type[T]) -> T:
    """The JSON body as `kind`; without a body, or with `null`, a `kind` without arguments. Raises as
    `decode_body`.
    """
    body = await read_body(request)
    return kind() if body.strip() in (b"", b"null") else await decode_body(request, kind)


def convert_body[T](fields: Mapping[str, Any], kind: type[T]) -> T:
    """A decoded body as `kind`, for a route whose body's type depends on its fields. Raises `Invalid` with a
    JSON pointer.
    """
    with _name_fault():
        return json_input.convert(fields, kind)


async def _read_json(request: web.Request) -> bytes:
    content_type = request.content_type
    if content_type not in JSON_TYPES and not content_type.endswith("+json"):
        raise web.HTTPUnsupportedMediaType
    return await read_body(request)


class NotJson(Invalid):
    """The body is not JSON."""


def decode_json[T](request: web.Request, body: bytes, kind: type[T]) -> T:
    """A request's body as `kind`. A body that had to be mended is so for whoever reads it later.

    Raises `NotJson`, and `Invalid` with a JSON pointer.
    """
    try:
        return _decode_json(body, kind)
    except NotJson:
        mended = json_input.mend(body)
        if mended is body:
            raise
    request_body.replace(request, mended)
    return _decode_json(mended, kind)


def _decode_json[T](body: bytes, kind: type[T]) -> T:
    with _name_fault():
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError as fault:
            if not json_input.is_about_float(fault):
                raise
        return json_input.convert(msgspec.json.decode(body), kind)


@contextmanager
def _name_fault() -> Iterator[None]:
    try:
        yield
    except msgspec.ValidationError as fault:
        detail, _, path = str(fault).partition(" - at `$")
        raise Invalid(detail, _json_pointer(path.rstrip("`"))) from fault
    except RecursionError as fault:
        raise Invalid("the body is nested too deeply") from fault
    except UnicodeDecodeError as fault:
        raise NotJson("the body is not JSON: it is not in UTF-8") from fault
    except msgspec.DecodeError as fault:
        raise NotJson(f"the body is not JSON: {fault}") from fault


def _json_pointer(path: str) -> str:
    """Msgspec's `.messages[0].id` as a JSON pointer (RFC 6901)."""
    return path.replace("[", "/").replace("]", "").replace(".", "/")


def key_of(request: web.Request) -> str | None:
    """The `Idempotency-Key` header: requests with the same key are one request. Raises `Invalid`."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise Invalid("an Idempotency-Key has 1 to 255 printable ASCII characters")
    return key


def view_of(request: web.Request) -> View:
    """Which events the client receives, by its version (`?ui=`) and `x-emit-operations`. Raises `Invalid`."""
    operations = request.headers.get("x-emit-operations", "").lower() == "true"
    return client_view(request.query.get("ui"), operations=operations)


def agent_of(request: web.Request) -> AgentName:
    """The request's agent: from the path, one of `AGENT_HEADERS`, the credential, or the default.

    Raises `NotFound` for an agent that cannot exist or that the credential may not use, and `Invalid` if
    nothing names an agent.
    """
    name = request.match_info.get("agent") or named_agent(request)
    if name:
        return allowed_agent(request, name)
    default = request[PRINCIPAL].agent or request.app[SERVICE].default_agent
    if default is None:
        raise Invalid("which agent? name it in the header x-agent-id")
    return default


def allowed_agent(request: web.Request, name: str) -> AgentName:
    """The agent that a client names. Every route that takes an agent's name checks it here.

    Raises `NotFound` for an agent that cannot exist or that the credential may not use.
    """
    bound = request[PRINCIPAL].agent
    unknown = NotFound(f"there is no agent {name[:64]!r}")
    try:
        agent = agent_name(name)
    except Invalid:
        raise unknown from None
    if bound not in (None, agent):
        raise unknown
    return agent


def named_agent(request: web.Request) -> str | None:
    """The agent that a header names."""
    return next(filter(None, map(request.headers.get, AGENT_HEADERS)), None)


def backend_of(request: web.Request) -> Backend:
    """The gateway's backend. A page of another origin gets absolute URLs of files: in that page a relative
    one would lead to the page's own server.
    """
    backend, address = request.app[SERVICE].backend, address_for_page(request)
    if address is None or backend.file_urls is None:
        return backend
    return msgspec.structs.replace(backend, file_urls=backend.file_urls.at(address))


def session_of(request: web.Request, id: str) -> AgentSession:
    """The session with this id, whether it exists or not.

    Raises `Invalid` for an id with characters or a length that no session id has, and as `agent_of`.
    """
    agent, owner, backend = agent_of(request), request[PRINCIPAL].owner, backend_of(request)
    return AgentSession(
        backend, owner, session_id(id), agent, ContextInput(request.headers), operation_set_of(request)
    )
