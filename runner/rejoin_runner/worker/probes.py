"""Probes of a runner for orchestrators: `GET /health/live` and `GET /health/ready`, on a port of their own.

The thread of the heartbeats answers them: it sees an event loop that stands still, and if it has died itself,
nobody answers. Owns the state that probes report and the listener with its bounds; never touches a run. Of
HTTP/1.1 (RFC 9112) it has what probes need: one request for each connection, without a body.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Literal

import msgspec

from rejoin_protocol.errors import Invalid

LIVE, READY = "/health/live", "/health/ready"
PROBE_OK = "ok"
PORT_MAX = 65_535
PROBES_MAX = 16
"""Open connections of probes. A further one ends the oldest: a probe is answered at once, so that is none."""
PROBE_S_MAX = 2.0
"""Seconds from the connection to the end of the request."""
PROBE_BYTES_MAX = 4_096

type Phase = Literal["starting", "serving", "draining"]


class RunnerHealth:
    """What a runner knows of itself. Its worker writes `phase`, the thread of the heartbeats the rest.

    `late_s`, `stuck_s`: seconds without an answer of the event loop after which the runner is not ready, and
    after which it has to be started again.
    """

    def __init__(self, late_s: float, stuck_s: float) -> None:
        self.phase: Phase = "starting"
        self.is_connected = False
        """Whether the broker can be reached."""
        self._late_s = late_s
        self._stuck_s = stuck_s
        self._blocked_s = 0.0
        self._seen_s = monotonic()

    def loop_seen(self, blocked_s: float) -> None:
        """The event loop has not answered for `blocked_s`, as of now."""
        self._blocked_s, self._seen_s = blocked_s, monotonic()

    def check_live(self) -> dict[str, str]:
        """By check: `ok`, or what only a new process can repair."""
        return {"event loop": self._check_loop(self._stuck_s)}

    def check_ready(self) -> dict[str, str]:
        """By check: `ok`, or why no request is pulled now."""
        return {
            "runner": PROBE_OK if self.phase == "serving" else self.phase,
            "event loop": self._check_loop(self._late_s),
            "broker": PROBE_OK if self.is_connected else "the broker cannot be reached",
        }

    def _check_loop(self, seconds_max: float) -> str:
        blocked_s = self._blocked_s + monotonic() - self._seen_s  # grows too if nobody looks any more
        return PROBE_OK if blocked_s <= seconds_max else f"blocked for {blocked_s:.0f} s"


@contextmanager
def open_probe_socket(host: str, port: int | None) -> Iterator[socket.socket | None]:
    """A listening socket for probes; None without a port. Raises `Invalid` if the address is in use."""
    if port is None:
        yield None
        return
    if not 0 <= port <= PORT_MAX:
        raise Invalid(f"REJOIN_HEALTH_PORT is 0 to {PORT_MAX}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=PROBES_MAX)
    except OSError as fault:
        raise Invalid(f"probes cannot be answered at {host}:{port} ({fault.strerror})") from fault
    with listener:
        yield listener


@asynccontextmanager
async def answering_probes(listener: socket.socket | None, health: RunnerHealth) -> AsyncIterator[None]:
    """Answer probes during the block, in the event loop of the calling thread. No connection outlives it."""
    if listener is None:
        yield
        return
    open_transports: dict[asyncio.Transport, None] = {}
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(_Probe, health, open_transports), sock=listener)
    try:
        yield
    finally:
        server.close()
        for transport in tuple(open_transports):
            transport.abort()


class _Probe(asyncio.Protocol):
    """One connection: reads the head of one request, answers, closes."""

    def __init__(self, health: RunnerHealth, open_transports: dict[asyncio.Transport, None]) -> None:
        self._health = health
        self._open = open_transports
        self._head = b""
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - what `create_server` makes
        self._transport = transport
        self._deadline = asyncio.get_running_loop().call_later(PROBE_S_MAX, transport.abort)
        self._open[transport] = None
        if len(self._open) > PROBES_MAX:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._head += data
        if b"\r\n\r\n" in self._head:
            self._transport.write(_respond(self._head, self._health))
            self._transport.close()
        elif len(self._head) > PROBE_BYTES_MAX:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._deadline.cancel()
        self._open.pop(self._transport, None)


def _respond(head: bytes, health: RunnerHealth) -> bytes:
    """The whole response to a request with this head."""
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("ascii", "replace")
    checks = {LIVE: health.check_live, READY: health.check_ready}.get(path)
    if checks is None:
        return _format(HTTPStatus.NOT_FOUND, {})
    if method != b"GET":
        return _format(HTTPStatus.METHOD_NOT_ALLOWED, {})
    found = checks()
    is_ok = all(result == PROBE_OK for result in found.values())
    return _format(HTTPStatus.OK if is_ok else HTTPStatus.SERVICE_UNAVAILABLE, found)


def _format(status: HTTPStatus, checks: dict[str, str]) -> bytes:
    words = {HTTPStatus.OK: PROBE_OK, HTTPStatus.SERVICE_UNAVAILABLE: "unavailable"}
    report = {"status": words.get(status, status.phrase.lower()), "checks": checks}
    body = msgspec.json.encode(report)
    allow = "Allow: GET\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else ""
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n{allow}"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
