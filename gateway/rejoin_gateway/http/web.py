"""The aiohttp side of everything: what every request gets, and how a replay becomes a response.

Owns the middlewares, the reading of bodies and the writing of streams. A stream ends in one of three ways:
with `[DONE]`; by the client's leaving, which stops nothing but the stream; or broken, so that the client sees
a network error and resumes, because a clean end would be read as a whole answer.
"""

import asyncio
import math
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import msgspec
import structlog
from aiohttp import web
from rejoin_adapters.records import Decision
from rejoin_protocol.errors import Forbidden, Invalid, Limited, NotFound, RejoinError, Unavailable
from rejoin_protocol.ids import AgentName, agent_name, session_id
from rejoin_protocol.log import sse
from rejoin_protocol.log.record import View

from rejoin_gateway.auth.authenticator import ANONYMOUS, Authenticator, Principal
from rejoin_gateway.core.agent_context import ContextInput
from rejoin_gateway.core.session import Backend, Session
from rejoin_gateway.fair_share import FairShare
from rejoin_gateway.http import errors, instrumentation, request_body
from rejoin_gateway.http.cors import Cors, is_from_trusted_page, is_to_loopback, preflight_response
from rejoin_gateway.http.rate_limit import Rate, RateLimiter, TenantRates
from rejoin_gateway.http.routes import Handler, Scope, error_format_of, route_of
from rejoin_gateway.streaming import positions
from rejoin_gateway.streaming.replay import Replay

log = structlog.get_logger("rejoin.http")

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
JSON_TYPES = frozenset({"application/json", "text/plain", "application/octet-stream"})
"""What a JSON body may call itself: a `fetch` with a string says text/plain, others say nothing."""
UI_VERSIONS = frozenset({"5", "6", "7"})
RESUME_LOOKUPS_MAX = 32
"""How many look for their places at once: a thousand would each wait too long for the database."""


class DisconnectPolicy(msgspec.Struct, frozen=True):
    """What the agent-chat family's clients owe their runs."""

    limit_s: float | None = 120.0
    stop_when_left: bool = True


class GatewayService(msgspec.Struct, frozen=True, kw_only=True):
    """What the routes share. `rate`: how often a credential may ask; `rates`: a tenant."""

    backend: Backend
    gate: Authenticator
    default_agent: AgentName | None = None
    rate: Rate | None = None
    rates: TenantRates
    cors: Cors = Cors()
    attention: DisconnectPolicy = DisconnectPolicy()
    limiter: RateLimiter = msgspec.field(default_factory=RateLimiter)
    stopping: asyncio.Event = msgspec.field(default_factory=asyncio.Event)
    streams: set[asyncio.Transport] = msgspec.field(default_factory=set)
    rejoins: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(RESUME_LOOKUPS_MAX))
    bodies: FairShare = msgspec.field(default_factory=lambda: FairShare(request_body.LARGE_BODIES_BYTES_MAX))

    def stop(self) -> None:
        """Refuse what comes from now on, and break the streams: their clients resume elsewhere. None of them
        is ended cleanly.
        """
        self.stopping.set()
        for transport in tuple(self.streams):
            transport.abort()


type Translate = Callable[[AsyncGenerator[bytes]], AsyncGenerator[bytes]]
SERVICE: web.AppKey[GatewayService] = web.AppKey("service", GatewayService)
PRINCIPAL: web.RequestKey[Principal] = web.RequestKey("principal", Principal)


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A request id, one line in the log, and every error as a problem."""
    began = time.monotonic()
    id = request.headers.get("x-request-id", "")[:128] or f"req_{secrets.token_hex(8)}"
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request=id)
    with instrumentation.observe_request(request, request.app[SERVICE].backend.metrics) as answered:
        try:
            response = await _answer(request, handler, id)
        finally:
            request_body.release_body(request)
        answered(response)
        if not response.prepared:
            response.headers["x-request-id"] = id
        level = log.debug if request.path.startswith(instrumentation.UNTRACED_PATHS) else log.info
        level(
            "request",
            method=request.method,
            path=request.path,
            status=response.status,
            took_ms=round((time.monotonic() - began) * 1000, 1),
        )
        return response


async def _answer(request: web.Request, handler: Handler, id: str) -> web.StreamResponse:
    try:
        _refuse_if_stopping(request)
        friendly = preflight_response(request, request.app[SERVICE].cors)
        if friendly is not None:
            return friendly
        await _identify(request)
        return await handler(request)
    except errors.MAPPED_ERRORS as fault:
        if isinstance(fault, Unavailable):
            log.warning("service_unavailable", error=str(fault))
        return errors.error_response(fault, error_format_of(request))
    except web.HTTPException as fault:
        return errors.http_error_response(fault, error_format_of(request))
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("unhandled_exception", path=request.path)
        return errors.internal_error_response(id, error_format_of(request))


async def _identify(request: web.Request) -> None:
    """Who asks, whether that one may, and whether it is not too often. Nothing has happened before."""
    route, service = route_of(request), request.app[SERVICE]
    if route is None or route.scope is None:
        return
    principal = await service.gate.principal(request.headers.get("Authorization"))
    if principal is ANONYMOUS and not (
        is_to_loopback(request) and is_from_trusted_page(request, service.cors)
    ):
        raise Forbidden("without a credential only this machine's own pages may call")
    structlog.contextvars.bind_contextvars(tenant=principal.owner.tenant, principal=principal.name)
    principal.need(route.scope)
    await _limit(service, principal)
    request[PRINCIPAL] = principal


async def _limit(service: GatewayService, principal: Principal) -> None:
    """Raises `Limited` for a credential or a tenant that asks too often."""
    now_s, tenant = time.monotonic(), principal.owner.tenant
    rates = {principal.name: service.rate, f"tenant {tenant}": await service.rates.of(tenant, now_s)}
    for name, rate in rates.items():
        wait_s = service.limiter.take(name, rate, now_s) if rate is not None else 0
        if wait_s > 0:
            raise Limited("too many requests", math.ceil(wait_s))


def _refuse_if_stopping(request: web.Request) -> None:
    if request.app[SERVICE].stopping.is_set() and not request.path.startswith("/health/"):
        raise Unavailable("this gateway is stopping", retry_after_s=1)


async def read_body(request: web.Request) -> bytes:
    """The body as it came, once there is room for it. Raises as `bodies.read`."""
    return await request_body.read(request, request.app[SERVICE].bodies, request[PRINCIPAL].owner.tenant)


async def decode_body[T](request: web.Request, kind: type[T]) -> T:
    """The JSON body. Raises `Invalid` naming the place, and 413 or 415."""
    content_type = request.content_type
    if content_type not in JSON_TYPES and not content_type.endswith("+json"):
        raise web.HTTPUnsupportedMediaType
    try:
        raw = await read_body(request)
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
    """Which events this client sees: `?ui=` is the major version of its AI SDK. Raises `Invalid`."""
    ui = request.query.get("ui", "7")
    if ui not in UI_VERSIONS:
        raise Invalid(f"ui is 5, 6 or 7, not {ui[:64]!r}")
    operations = request.headers.get("x-emit-operations", "").lower() == "true"
    return View(operations=operations, v7=ui == "7", v6=ui != "5")


def agent_of(request: web.Request) -> AgentName:
    """The agent that a request names: by path, by header, by its credential, or not at all.

    Raises `NotFound`, also for an agent that is not the credential's, and `Invalid`.
    """
    bound = request[PRINCIPAL].agent
    named = request.match_info.get("agent") or request.headers.get("x-agent-id")
    if named:
        if bound is not None and named != bound:
            raise NotFound(f"there is no agent {named[:64]!r}")
        try:
            return agent_name(named)
        except Invalid:
            raise NotFound(f"there is no agent {named[:64]!r}") from None
    default = bound or request.app[SERVICE].default_agent
    if default is None:
        raise Invalid("which agent? name it in the header x-agent-id")
    return default


def session_of(request: web.Request, id: str) -> Session:
    """The session of a request. Raises `Invalid` for an id that cannot be one, and as `agent_of`."""
    owner = request[PRINCIPAL].owner
    sessions = request.app[SERVICE].backend.agent(agent_of(request), owner)
    return sessions.session(session_id(id), ContextInput(request.headers))


async def resume_stream(request: web.Request, session: Session) -> web.StreamResponse:
    """The stream of a session's run, from wherever the client says it is; 204 if that is nowhere."""
    position = positions.parse_position(request.headers, request.query)
    follow = request.query.get("follow", "").lower() == "true"
    async with request.app[SERVICE].rejoins:
        _refuse_if_stopping(request)
        replay = await session.stream(position, view_of(request), follow=follow)
    return web.Response(status=204) if replay is None else await stream_replay(request, replay)


async def approve_and_stream(
    request: web.Request, session: Session, decisions: Sequence[Decision], acknowledgement: Any = None
) -> web.StreamResponse:
    """Store decisions and stream what follows; an acknowledgement while the run waits for others.

    Raises `Forbidden` for a credential that may not decide.
    """
    request[PRINCIPAL].need(Scope.APPROVE)
    if request[PRINCIPAL].agent is not None:
        await session.check_agent()
    continuation = await session.approve(decisions, view_of(request))
    if continuation is None:
        return json_response(acknowledgement or {"success": True})
    return await stream_replay(request, continuation)


async def stream_replay(
    request: web.Request, replay: Replay, translate: Translate | None = None
) -> web.StreamResponse:
    """A replay as the response, in the words of another protocol if need be."""
    structlog.contextvars.bind_contextvars(session=replay.run.session, run=replay.run.id)
    response = web.StreamResponse(headers=stream_headers(replay))
    request_body.release_body(request)
    async with replay.open() as frames:  # what fails here can still be answered with a status
        await _write(request, response, frames if translate is None else translate(frames))
    return response


def stream_headers(replay: Replay) -> dict[str, str]:
    """What a stream's response says before its first event."""
    session = replay.run.session
    headers = sse.HEADERS | {
        "x-workflow-run-id": replay.run.id,
        "X-Thread-Id": session,
        "x-conversation-id": session,
    }
    if replay.start.tail is not None:
        headers["x-workflow-stream-tail-index"] = str(replay.start.tail)
    return headers


async def _write(request: web.Request, response: web.StreamResponse, frames: AsyncGenerator[bytes]) -> None:
    """The frames, as they come."""
    streams, transport = request.app[SERVICE].streams, request.transport
    metrics, silent = request.app[SERVICE].backend.metrics, True
    if transport is None:
        return
    streams.add(transport)
    metrics.streams(len(streams))
    try:
        with abort_on_error(request, transport):
            await response.prepare(request)
            async with aclosing(frames):
                async for written in frames:
                    await response.write(written)
                    if silent and written != sse.KEEP_ALIVE:
                        silent = False
                        instrumentation.record_first_event(request, metrics)
            await response.write_eof()
    finally:
        streams.discard(transport)
        metrics.streams(len(streams))


@contextmanager
def abort_on_error(request: web.Request, transport: asyncio.Transport) -> Iterator[None]:
    """For who writes a response bit by bit: from the first byte on, what goes wrong can only break the
    connection.
    """
    try:
        yield
    except RejoinError as fault:
        log.warning("stream_aborted", error=str(fault))
        request.app[SERVICE].backend.metrics.broken()
        transport.abort()
    except ConnectionError:
        log.info("client_disconnected")
    except Exception:
        transport.abort()
        raise


def json_response(value: Any, status: int = 200) -> web.Response:
    """A JSON response."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")
