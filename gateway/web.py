"""The aiohttp side of everything: what every request gets, and how a replay becomes a response.

Owns the middlewares, the reading of bodies and the writing of streams. A stream ends in one of three ways:
with `[DONE]`; by the client's leaving, which stops nothing but the stream; or broken, so that the client sees
a network error and resumes, because a clean end would be read as a whole answer.
"""

import asyncio
import re
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from aiohttp import web

from gateway import positions, problems
from gateway.replay import Replay
from gateway.sessions import Backend, Session
from protocol import sse
from protocol.adapters.ports import Decision
from protocol.errors import Invalid, NotFound, RejoinError, Unavailable
from protocol.ids import AgentName, TenantId, agent_name, session_id
from protocol.log import View

log = structlog.get_logger("rejoin.http")

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
BODY_BYTES_MAX = 16 * 1024 * 1024
JSON_TYPES = frozenset({"application/json", "text/plain", "application/octet-stream"})
"""What a JSON body may call itself: a `fetch` with a string says text/plain, others say nothing."""

type Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Service(msgspec.Struct, frozen=True):
    """What the routes share."""

    backend: Backend
    default_agent: AgentName | None
    stopping: asyncio.Event
    streams: set[asyncio.Transport]


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
TENANT = TenantId("default")
"""Whose everything is, as long as there are no keys: the gateway then listens on loopback only."""


@web.middleware
async def observe(request: web.Request, handler: Route) -> web.StreamResponse:
    """A request id, one line in the log, and every error as a problem."""
    began = time.monotonic()
    id = request.headers.get("x-request-id", "")[:128] or f"req_{secrets.token_hex(8)}"
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request=id)
    response = await _answer(request, handler, id)
    if not response.prepared:
        response.headers["x-request-id"] = id
    level = log.debug if request.path.startswith("/health/") else log.info
    level(
        "request",
        method=request.method,
        path=request.path,
        status=response.status,
        took_ms=round((time.monotonic() - began) * 1000, 1),
    )
    return response


async def _answer(request: web.Request, handler: Route, id: str) -> web.StreamResponse:
    try:
        _refuse_if_stopping(request)
        return await handler(request)
    except problems.TOLD as fault:
        if isinstance(fault, Unavailable):
            log.warning("unavailable", error=str(fault))
        return problems.of(fault)
    except web.HTTPException as fault:
        return problems.of_http(fault)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("incident", path=request.path)
        return problems.internal(id)


def _refuse_if_stopping(request: web.Request) -> None:
    if request.app[SERVICE].stopping.is_set() and not request.path.startswith("/health/"):
        raise Unavailable("this gateway is stopping", retry_after_s=1)


async def body[T](request: web.Request, kind: type[T]) -> T:
    """The JSON body. Raises `Invalid` naming the place, and 413 or 415."""
    content_type = request.content_type
    if content_type not in JSON_TYPES and not content_type.endswith("+json"):
        raise web.HTTPUnsupportedMediaType
    try:
        raw = await request.read()
    except web.RequestPayloadError as fault:
        raise Invalid("the body does not have the encoding that it claims") from fault
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as fault:
        detail, _, path = str(fault).partition(" - at `$")
        raise Invalid(detail, _pointer(path.rstrip("`"))) from fault
    except RecursionError as fault:
        raise Invalid("the body is nested too deeply") from fault
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise Invalid(f"the body is not JSON: {fault}") from fault


def _pointer(path: str) -> str:
    """Msgspec's `.messages[0].id` as a JSON pointer."""
    return path.replace("[", "/").replace("]", "").replace(".", "/")


def key_of(request: web.Request) -> str | None:
    """The caller's name for the request. Raises `Invalid`."""
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise Invalid("an Idempotency-Key has 1 to 255 printable ASCII characters")
    return key


def view_of(request: web.Request) -> View:
    """Which events this client sees."""
    return View(operations=request.headers.get("x-emit-operations", "").lower() == "true")


def agent_of(request: web.Request) -> AgentName:
    """The agent that a request names, by path, by header, or not at all. Raises `NotFound`, `Invalid`."""
    named = request.match_info.get("agent") or request.headers.get("x-agent-id")
    if named:
        try:
            return agent_name(named)
        except Invalid:
            raise NotFound(f"there is no agent {named[:64]!r}") from None
    default = request.app[SERVICE].default_agent
    if default is None:
        raise Invalid("which agent? name it in the header x-agent-id")
    return default


def session_of(request: web.Request, id: str) -> Session:
    """The session of a request. Raises `Invalid` for an id that cannot be one, and as `agent_of`."""
    return request.app[SERVICE].backend.agent(agent_of(request), TENANT).session(session_id(id))


async def rejoin(request: web.Request, session: Session) -> web.StreamResponse:
    """The stream of a session's run, from wherever the client says it is; 204 if that is nowhere."""
    position = positions.parse(request.headers, request.query)
    follow = request.query.get("follow", "").lower() == "true"
    replay = await session.stream(position, view_of(request), follow=follow)
    return web.Response(status=204) if replay is None else await stream(request, replay)


async def approve(
    request: web.Request, session: Session, decisions: Sequence[Decision]
) -> web.StreamResponse:
    """Store decisions and stream what follows; an acknowledgement while the run waits for others."""
    continuation = await session.approve(decisions, view_of(request))
    return json({"success": True}) if continuation is None else await stream(request, continuation)


async def stream(request: web.Request, replay: Replay) -> web.StreamResponse:
    """A replay as the response."""
    session = replay.run.session
    structlog.contextvars.bind_contextvars(session=session, run=replay.run.id)
    headers = sse.HEADERS | {
        "x-workflow-run-id": replay.run.id,
        "X-Thread-Id": session,
        "x-conversation-id": session,
    }
    if replay.start.tail is not None:
        headers["x-workflow-stream-tail-index"] = str(replay.start.tail)
    response = web.StreamResponse(headers=headers)
    async with replay.open() as frames:  # what fails here can still be answered with a status
        await _write(request, response, frames)
    return response


async def _write(request: web.Request, response: web.StreamResponse, frames: AsyncGenerator[bytes]) -> None:
    """The frames, as they come. From the first byte on, what goes wrong can only break the connection."""
    streams, transport = request.app[SERVICE].streams, request.transport
    if transport is None:
        return
    streams.add(transport)
    try:
        await response.prepare(request)
        async with aclosing(frames):
            async for written in frames:
                await response.write(written)
        await response.write_eof()
    except RejoinError as fault:
        log.warning("stream_broken", error=str(fault))
        transport.abort()
    except ConnectionError:
        log.info("client_gone")
    except Exception:
        transport.abort()
        raise
    finally:
        streams.discard(transport)


def json(value: Any, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
