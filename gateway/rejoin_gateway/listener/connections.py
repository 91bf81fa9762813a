"""The open connections of one gateway: their number, in all and for each peer, and how long one may wait.

A client that sends no request, or a request's head slowly, costs a file descriptor and memory. So a
connection is closed when its request's head takes too long or is too large, and when it has been idle for too
long; heads that have not arrived whole have at most so many bytes together. Requests that a client sends
before the one in work is answered (pipelining, RFC 9112, section 9.3.2) count as such heads. When there are
as many connections as may be, those that are idle for longest make room. aiohttp has one time limit for all
of this, and no bound; times of bodies and streams are limited where they are read and written.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

import msgspec
import structlog
from aiohttp import StreamReader, web

from rejoin_protocol.limits import (
    CONNECTIONS_MAX,
    HEAD_BYTES_MAX,
    HEAD_S_MAX,
    HEADS_BYTES_MAX,
    IDLE_S_MAX,
    PEER_CONNECTIONS_MAX,
    RECEIVED_BYTES_MAX,
)

log = structlog.get_logger("rejoin.connections")

ROOM_SHARE = 20
"""One of so many connections makes room at once when none is free."""
SITE_PREFIX = 64
"""One customer's IPv6 network counts as one peer."""
PEERS_REMEMBERED = 1024
"""Addresses whose peers are not worked out again."""
REPORT_PERIOD_S = 10.0
FILES_RESERVED_MAX = 256
"""File descriptors for everything but clients: broker, database, files that are fetched."""
HEAD_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\n"
    b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
)
_END_OF_HEAD = re.compile(rb"\n(?:(?<=[^\r\n]\n)|(?<=[^\r\n]\r\n))\r?\n")
"""Empty lines before a head, which HTTP allows, do not end it. The pattern begins with what is rare in a
head: that makes the search quick.
"""
_END_BYTES = 4
"""The longest end of a head, without its last byte."""


class ConnectionLimits(msgspec.Struct, frozen=True):
    """`count_max`: connections in all. `peer_max`: of one peer. `head_s`: from a request's first byte to the
    end of its head. `idle_s`: without a request. `sweep_s`: how often both are looked at. `head_bytes_max`:
    of one head; `heads_bytes_max`: of all that have not arrived whole.
    """

    count_max: int = CONNECTIONS_MAX
    peer_max: int = PEER_CONNECTIONS_MAX
    head_s: float = HEAD_S_MAX
    idle_s: float = IDLE_S_MAX
    head_bytes_max: int = HEAD_BYTES_MAX
    heads_bytes_max: int = HEADS_BYTES_MAX
    sweep_s: float = 1.0


def limit_by_files(wanted: int, files_max: int) -> int:
    """The number of connections: the wanted one, or fewer, so that file descriptors remain for everything
    else.
    """
    return max(1, min(wanted, files_max - min(FILES_RESERVED_MAX, files_max // 2)))


class Connection(asyncio.BufferedProtocol):
    """Passes everything to aiohttp's protocol, and knows since when the connection waits for its client.

    It receives into a buffer that all connections share, piece by piece. A plain protocol is handed up to
    256 KB at once, before anybody can say that the request's body must wait for its turn.
    """

    def __init__(self, inner: asyncio.Protocol, connections: "Connections", peer: str) -> None:
        self.peer = peer
        self.is_busy = False
        self.transport: asyncio.Transport | None = None
        self.since_s = connections.clock_s()
        self._inner = inner
        self._connections = connections
        self.in_head = False
        self._head_bytes = 0
        """Of a head that has begun and not ended, and of what came ahead of its turn."""
        self._body: StreamReader | None = None
        """Of the request in work."""
        self._head_ended = False
        self._tail = b""
        self._is_refused = False
        self._unsent_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        if isinstance(transport, asyncio.Transport):
            self.transport = transport
        self._inner.connection_made(transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """See `asyncio.BufferedProtocol`."""
        return self._connections.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self._take(bytes(self._connections.buffer[:nbytes]))

    def _take(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._body is not None and self._body.is_eof() and not self._count_ahead(len(data)):
            return
        if not (self.is_busy or self.in_head):
            self._forget_head()  # all that came ahead has been answered
            self.in_head, self.since_s = True, self._connections.clock_s()
        if self.in_head and not self._head_ended and not self._count_head(data):
            return
        self._inner.data_received(data)

    def _count_head(self, data: bytes) -> bool:
        """Count the bytes of a head. False, and the connection closes, if they are too many."""
        end = _END_OF_HEAD.search(self._tail + data)
        size = len(data) if end is None else max(0, end.end() - len(self._tail))
        if self._head_bytes + size > self._connections.limits.head_bytes_max:
            self._refuse_head()
            return False
        if end is None:
            self._tail = (self._tail + data)[-_END_BYTES:]
            self._head_bytes += size
            self._connections.count_heads(size)
        else:
            self._forget_head()
            self._head_ended = True
        return True

    def _count_ahead(self, size: int) -> bool:
        """Count bytes of requests that wait for the one in work. False, and the connection closes, if they
        are too many: an error for one of them cannot be sent before the answer in work ends.
        """
        self._head_bytes += size
        self._connections.count_heads(size)
        if self._head_bytes > self._connections.limits.head_bytes_max:
            self._is_refused = True
            self.abort()
        return not self._is_refused

    @property
    def holds_head(self) -> bool:
        """Whether it has sent a part of a head, or requests ahead of their turn."""
        return self.in_head or self._head_bytes > 0

    def _refuse_head(self) -> None:
        self._is_refused = True
        self._forget_head()
        if self.transport is not None:
            text = b"a request's head has at most %d bytes" % self._connections.limits.head_bytes_max
            self.transport.write(HEAD_TOO_LARGE % (len(text), text))
            self.transport.close()

    def _forget_head(self) -> None:
        self._connections.count_heads(-self._head_bytes)
        self._head_bytes, self._tail = 0, b""

    def eof_received(self) -> bool | None:
        """See `asyncio.Protocol`."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._forget_head()
        self._connections.remove(self)
        self._inner.connection_lost(exc)

    def begin(self, request: web.BaseRequest) -> None:
        """A request is in work, whose head has arrived."""
        ahead_bytes = 0 if self.in_head else max(0, self._head_bytes - _size_of(request))
        self._connections.count_heads(ahead_bytes - self._head_bytes)
        self._head_bytes, self._tail = ahead_bytes, b""
        self.is_busy, self.in_head, self._head_ended, self._body = True, False, False, request.content
        self.since_s = self._connections.clock_s()

    def end(self, *, rest_follows: bool) -> None:
        """The request is answered. `rest_follows`: before its body has arrived whole, and the connection ends
        with the answer: what still comes is no head.
        """
        self.is_busy, self._head_ended, self._body = False, rest_follows, None
        self.since_s = self._connections.clock_s()

    def is_overdue(self, now_s: float, limits: ConnectionLimits) -> bool:
        """Whether the client has had its time. A client that still reads an answer is not idle."""
        if self.is_busy:
            return False
        unsent_bytes = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self.since_s = unsent_bytes, now_s
        return now_s - self.since_s > (limits.head_s if self.in_head else limits.idle_s)

    def abort(self) -> None:
        """Close the connection at once."""
        self._forget_head()
        if self.transport is not None:
            self.transport.abort()


def _size_of(request: web.BaseRequest) -> int:
    """The bytes that a request took on the wire, its body included if its length is known."""
    line = len(request.method) + len(request.raw_path) + len("  HTTP/1.1\r\n\r\n")
    headers = sum(len(name) + len(value) + len(": \r\n") for name, value in request.raw_headers)
    return line + headers + (request.content_length or 0)


class Connections:
    """The open connections. `has_room`: whether one more may be accepted."""

    def __init__(self, limits: ConnectionLimits, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self.clock_s = clock_s
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.buffer = memoryview(bytearray(RECEIVED_BYTES_MAX))
        """What one connection receives, until it has taken it over: at once."""
        self._open: set[Connection] = set()
        self._peers: Counter[str] = Counter()
        self._heads_bytes = 0
        self._reported_at_s = float("-inf")
        self._refused = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self, inner: asyncio.Protocol, address: str) -> Connection | None:
        """The protocol of an accepted connection; None if its peer has as many as it may."""
        peer = peer_of(address)
        if self._peers[peer] >= self.limits.peer_max and not is_this_machine(peer):
            self._refused += 1
            self.report("peer_connections_full", peer=peer, hint="REJOIN_CONNECTIONS_PER_PEER_MAX")
            return None
        connection = Connection(inner, self, peer)
        self._open.add(connection)
        self._peers[peer] += 1
        if len(self._open) >= self.limits.count_max:
            self.has_room.clear()
            self.make_room()
        return connection

    def remove(self, connection: Connection) -> None:
        """The connection is closed."""
        if connection in self._open:
            self._open.remove(connection)
            self._peers[connection.peer] -= 1
            if not self._peers[connection.peer]:
                del self._peers[connection.peer]
        if len(self._open) < self.limits.count_max:
            self.has_room.set()

    def close_overdue(self) -> None:
        """Close the connections whose clients have had their time, and idle ones if there is no room. Call it
        periodically.
        """
        now_s = self.clock_s()
        for connection in [one for one in self._open if one.is_overdue(now_s, self.limits)]:
            connection.abort()
        if not self.has_room.is_set():
            self.make_room()

    def count_heads(self, more: int) -> None:
        """Count bytes of heads that have not arrived whole. If they are too many, close some of the
        connections that send them, those that have begun first.
        """
        self._heads_bytes += more
        if more > 0 and self._heads_bytes > self.limits.heads_bytes_max:
            self._close_oldest([one for one in self._open if one.holds_head], "heads_full")

    def make_room(self) -> None:
        """Close some of the connections that have waited for their clients for longest."""
        waiting = [one for one in self._open if not one.is_busy]
        self._close_oldest(waiting, "connections_full", hint="REJOIN_CONNECTIONS_MAX, open files")

    def _close_oldest(self, waiting: list[Connection], event: str, **fields: object) -> None:
        waiting.sort(key=lambda one: one.since_s)
        closed = waiting[: max(1, len(self._open) // ROOM_SHARE)]
        self.report(event, closed=len(closed), **fields)
        for connection in closed:
            connection.abort()

    def report(self, event: str, **fields: object) -> None:
        """Log a line, at most one in `REPORT_PERIOD_S`."""
        now_s = self.clock_s()
        if now_s - self._reported_at_s < REPORT_PERIOD_S:
            return
        log.warning(event, connections=len(self._open), refused=self._refused, **fields)
        self._reported_at_s, self._refused = now_s, 0


@lru_cache(PEERS_REMEMBERED)
def peer_of(address: str) -> str:
    """What counts as one peer: an IPv4 address, or the network of an IPv6 address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return address if parsed.is_loopback else str(ip_network((parsed, SITE_PREFIX), strict=False))
    return str(parsed)


def is_this_machine(peer: str) -> bool:
    """Whether a process of this machine connects, as a proxy on it does for all of its clients."""
    try:
        return ip_address(peer).is_loopback
    except ValueError:
        return False


def connection_of(request: web.Request) -> Connection | None:
    """The connection that a request came in on; None if something else than `BoundedSite` has accepted it."""
    protocol: object = None
    with suppress(NotImplementedError):  # the transport of an ASGI server has no protocol
        protocol = None if request.transport is None else request.transport.get_protocol()
    return protocol if isinstance(protocol, Connection) else None
