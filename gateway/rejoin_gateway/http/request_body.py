"""Reads request bodies and bounds the memory that large ones take together.

While a body with files is decoded, it takes several times its own size, and it stays in memory until its
files are stored. So a large body takes a share of the memory budget before its first byte is read, and
returns the share when the body is released. A body of unknown length (chunked) takes the largest share until
its length is known. Compressed bodies are refused: their size in memory is known too late.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
from aiohttp import web

from rejoin_adapters.process.fair_share import FairShare, Share
from rejoin_gateway.http.body_shape import needs_check
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.limits import (
    BODY_BYTES_MAX,
    LARGE_BODIES_BYTES_MAX,
    LARGE_BODIES_DECODED_MAX,
    LARGE_BODY_BYTES,
    SMALL_BODY_BYTES_MAX,
)

BODY_RETRY_AFTER_S = 5
PEEK_BYTES_MAX = 16 * 1024
PEEK_TIMEOUT_S = 0.5
SMALL_TIMEOUT_S = 10.0
COUNTED_BODY_BYTES = 64 * 1024
"""Bodies up to this size take no share while they are read either. Without shares for larger ones, hundreds
of clients that stop in the middle of theirs would hold the memory of a gateway.
"""
COUNTED_TIMEOUT_S = 30.0
SLOW_BODY_BYTES = 1024 * 1024
"""Bodies above this size may take as long as `LargeBodies.read_timeout_s`."""


class LargeBodies(FairShare):
    """The memory budget of one gateway, in bytes. `wait_s`: how long a large body waits for its share.
    `read_timeout_s`: for reading one, which occupies its share meanwhile. `turns`: those that have been read
    and are decoded; `turn_wait_s`: how long one waits to be.
    """

    def __init__(
        self,
        total: int = LARGE_BODIES_BYTES_MAX,
        *,
        wait_s: float = 5.0,
        read_timeout_s: float = 120.0,
        turn_wait_s: float = 30.0,
    ) -> None:
        super().__init__(total)
        self.turns = FairShare(LARGE_BODIES_DECODED_MAX)
        self.turn_wait_s = turn_wait_s
        self.wait_s = wait_s
        self.read_timeout_s = read_timeout_s


_SHARE: web.RequestKey[Share] = web.RequestKey("share", Share)
_TURN: web.RequestKey[Share] = web.RequestKey("turn", Share)
_BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)
_RECEIVED: web.RequestKey[bytearray] = web.RequestKey("received", bytearray)
"""The bytes of the body that have been read."""
_IS_WHOLE: web.RequestKey[bool] = web.RequestKey("is_whole", bool)
"""Set when the body has arrived to its end."""


async def read(request: web.Request, large_bodies: LargeBodies, tenant: str) -> bytes:
    """The body. A second call returns the same bytes, until `release_body`.

    Raises `Unavailable` if no share becomes free in time, HTTP 408 if the client sends too slowly,
    413 if the body is too large, 501 for a transfer coding besides `chunked`, and `Invalid` if it is
    compressed.
    """
    refuse_encoding(request)
    if _BODY in request:
        return request[_BODY]
    if request.headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        raise web.HTTPNotImplemented  # aiohttp would not undo it (RFC 9112, section 6.1)
    size = request.content_length
    if size is None and request.body_exists:
        size = BODY_BYTES_MAX
    if size is None or size <= COUNTED_BODY_BYTES:
        if request.get(_IS_WHOLE):
            return await _read_within_limit(request, request.client_max_size)
        async with _time_limit(SMALL_TIMEOUT_S):
            return await _read_within_limit(request, request.client_max_size)
    if size > BODY_BYTES_MAX:
        raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, size)
    try:
        async with asyncio.timeout(large_bodies.wait_s):
            share = request[_SHARE] = await large_bodies.take(tenant, size)
    except TimeoutError:
        raise Unavailable("too many large requests at once", BODY_RETRY_AFTER_S) from None
    async with _time_limit(large_bodies.read_timeout_s if size > SLOW_BODY_BYTES else COUNTED_TIMEOUT_S):
        body = await _read_within_limit(request, request.client_max_size)
    share.release(size - len(body) if len(body) > LARGE_BODY_BYTES else size)
    if len(body) > LARGE_BODY_BYTES:
        try:
            async with asyncio.timeout(large_bodies.turn_wait_s):
                request[_TURN] = await large_bodies.turns.take(tenant)
        except TimeoutError:
            raise Unavailable("too many large requests at once", BODY_RETRY_AFTER_S) from None
    return body


@asynccontextmanager
async def _time_limit(seconds: float) -> AsyncIterator[None]:
    """Raises HTTP 408 if the block, which reads a body, takes longer: its client sends too slowly."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


async def read_small(request: web.Request) -> bytes:
    """The body of a request without a credential. Raises HTTP 413 if it has more than `SMALL_BODY_BYTES_MAX`,
    408 if the client sends too slowly, and `Invalid` if it is compressed.
    """
    refuse_encoding(request)
    async with _time_limit(SMALL_TIMEOUT_S):
        if _BODY in request:
            return request[_BODY]
        return await _read_within_limit(request, SMALL_BODY_BYTES_MAX)


def refuse_encoding(request: web.Request) -> None:
    """Raises `Invalid` for a compressed body."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise Invalid("a request's body is taken as it is, without Content-Encoding")


async def peek_fields(request: web.Request) -> dict[str, Any] | None:
    """The fields of a short JSON body; None of any other body, and of one that does not arrive soon. For
    errors: raises nothing, and reads a body that nobody is going to read.
    """
    if _BODY in request:
        body = request[_BODY]  # perhaps it was refused because decoding it takes too much memory
        return None if needs_check(body) else _decode_fields(body)
    received = _received(request)
    with suppress(TimeoutError, web.RequestPayloadError, ConnectionError):
        async with asyncio.timeout(PEEK_TIMEOUT_S):
            while len(received) < PEEK_BYTES_MAX and (chunk := await _next_chunk(request)):
                received += chunk
    return _decode_fields(received)


def _decode_fields(body: bytes | bytearray) -> dict[str, Any] | None:
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode(body, type=dict[str, Any])
    return None


def keep_arrived(request: web.Request) -> None:
    """From now on, keep a body at the moment when its last byte arrives. Later may be too late: once its
    client leaves, aiohttp refuses to read a body, also one that has arrived whole.

    What aiohttp buffers is bounded, and a large body does not arrive before it is read.
    """
    received = request[_RECEIVED] = bytearray()

    def keep_rest() -> None:
        if request.content.exception() is None:
            received.extend(request.content.read_nowait())
            request[_IS_WHOLE] = True

    def keep_rest_soon() -> None:
        asyncio.get_running_loop().call_soon(keep_rest)

    if request.content.is_eof():
        keep_rest()
    else:
        # Not at once: aiohttp's parser calls, and to read would call the parser. A disconnect comes later.
        request.content.on_eof(keep_rest_soon)


def _received(request: web.Request) -> bytearray:
    if _RECEIVED not in request:
        keep_arrived(request)
    return request[_RECEIVED]


async def _next_chunk(request: web.Request) -> bytes:
    """What has arrived since the last call; empty at the end of the body."""
    return b"" if request.get(_IS_WHOLE) else await request.content.readany()


async def _read_within_limit(request: web.Request, size_max: int) -> bytes:
    """Like `request.read()`, which would keep the body in memory until the response has ended."""
    received = _received(request)
    try:
        while chunk := await _next_chunk(request):
            received += chunk
            _check_size(received, size_max)
        _check_size(received, size_max)
        body = request[_BODY] = bytes(received)
    except BaseException:
        del received[PEEK_BYTES_MAX:]
        raise
    received.clear()
    return body


def _check_size(received: bytearray, size_max: int) -> None:
    if size_max and len(received) > size_max:
        raise web.HTTPRequestEntityTooLarge(size_max, len(received))


def replace(request: web.Request, body: bytes) -> None:
    """Keep another body in the place of the one that was read."""
    request[_BODY] = body


def release_body(request: web.Request) -> None:
    """Drop the body and return its share. Call it when nothing refers to the body any more."""
    if _BODY in request:
        del request[_BODY]
    if _RECEIVED in request:
        request[_RECEIVED].clear()
    if _SHARE in request:
        request[_SHARE].release()
    if _TURN in request:
        request[_TURN].release()
