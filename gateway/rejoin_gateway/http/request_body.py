"""Reads request bodies and bounds the memory that large ones take together.

While a body with files is decoded, it takes several times its own size, and it stays in memory until its
files are stored. So a large body takes a share of the memory budget before its first byte is read, and
returns the share when the body is released. A body of unknown length (chunked or compressed) takes the
largest share until its length is known.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from aiohttp import web

from rejoin_gateway.fair_share import FairShare, Share
from rejoin_protocol.errors import Invalid, Unavailable

BODY_BYTES_MAX = 48 * 1024 * 1024
"""Fits three files of the largest size as data URLs. Decoding takes about four times the body's size."""
LARGE_BODY_BYTES = 1024 * 1024
"""Bodies up to this size take no share."""
LARGE_BODIES_BYTES_MAX = 256 * 1024 * 1024
"""All large bodies of one gateway together."""
RETRY_AFTER_S = 5
PEEK_BYTES_MAX = 16 * 1024
PEEK_TIMEOUT_S = 0.5
SMALL_BYTES_MAX = 16 * 1024
SMALL_TIMEOUT_S = 10.0


class LargeBodies(FairShare):
    """The memory budget of one gateway, in bytes. `wait_s`: how long a large body waits for its share.
    `read_timeout_s`: for reading one, which occupies its share meanwhile.
    """

    def __init__(
        self, total: int = LARGE_BODIES_BYTES_MAX, *, wait_s: float = 5.0, read_timeout_s: float = 120.0
    ) -> None:
        super().__init__(total)
        self.wait_s = wait_s
        self.read_timeout_s = read_timeout_s


_SHARE: web.RequestKey[Share] = web.RequestKey("share", Share)
_BODY: web.RequestKey[bytes] = web.RequestKey("body", bytes)
_BEGINNING: web.RequestKey[bytearray] = web.RequestKey("beginning", bytearray)
"""What has arrived of a body that did not arrive as a whole."""


async def read(request: web.Request, large_bodies: LargeBodies, tenant: str) -> bytes:
    """The body. A second call returns the same bytes, until `release_body`.

    Raises `Unavailable` if no share becomes free in time, HTTP 408 if the client sends too slowly,
    413 if the body is too large, and `Invalid` if it cannot be decompressed.
    """
    if _BODY in request:
        return request[_BODY]
    size = BODY_BYTES_MAX if "Content-Encoding" in request.headers else request.content_length
    if size is None and request.body_exists:
        size = BODY_BYTES_MAX
    if size is None or size <= LARGE_BODY_BYTES:
        return await _read_within_limit(request)
    if size > BODY_BYTES_MAX:
        raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, size)
    try:
        async with asyncio.timeout(large_bodies.wait_s):
            share = request[_SHARE] = await large_bodies.take(tenant, size)
    except TimeoutError:
        raise Unavailable("too many large requests at once", RETRY_AFTER_S) from None
    try:
        async with asyncio.timeout(large_bodies.read_timeout_s):
            body = await _read_within_limit(request)
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    share.release(size - len(body) if len(body) > LARGE_BODY_BYTES else size)
    return body


async def peek(request: web.Request) -> bytes:
    """The first bytes of a body that may not have been read, and that is not going to be. For errors: raises
    nothing, reads little and does not wait long.
    """
    if _BODY in request:
        return request[_BODY]
    received = bytearray(request.get(_BEGINNING, b""))
    with suppress(TimeoutError, web.RequestPayloadError, ConnectionError):
        async with asyncio.timeout(PEEK_TIMEOUT_S):
            while len(received) < PEEK_BYTES_MAX and (chunk := await request.content.readany()):
                received += chunk
    return bytes(received)


async def read_small(request: web.Request) -> bytes:
    """The body of a request without a credential. Raises HTTP 413 if it has more than `SMALL_BYTES_MAX`,
    408 if the client sends too slowly, and `Invalid` if it cannot be decompressed.
    """
    if _BODY in request:
        kept = request[_BODY]
        if len(kept) > SMALL_BYTES_MAX:
            raise web.HTTPRequestEntityTooLarge(SMALL_BYTES_MAX, len(kept))
        return kept  # if the client has left, aiohttp refuses to read more
    received = bytearray()
    try:
        with _refuse_wrong_encoding():
            async with asyncio.timeout(SMALL_TIMEOUT_S):
                while chunk := await request.content.readany():
                    received += chunk
                    if len(received) > SMALL_BYTES_MAX:
                        raise web.HTTPRequestEntityTooLarge(SMALL_BYTES_MAX, len(received))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return bytes(received)


def keep_received(request: web.Request) -> None:
    """Keep a small body that has arrived whole: once its client leaves, aiohttp refuses to read it."""
    if request.content.is_eof() and (request.content_length or 0) <= LARGE_BODY_BYTES:
        body = request.content.read_nowait()
        if len(body) <= (request.client_max_size or len(body)):
            request[_BODY] = body


async def _read_within_limit(request: web.Request) -> bytes:
    """As `request.read()`, which would keep the body in memory until the response has ended."""
    received, size_max = bytearray(), request.client_max_size
    try:
        with _refuse_wrong_encoding():
            while chunk := await request.content.readany():
                received += chunk
                if size_max and len(received) > size_max:
                    raise web.HTTPRequestEntityTooLarge(size_max, len(received))  # noqa: TRY301
    except BaseException:
        request[_BEGINNING] = received[:PEEK_BYTES_MAX]
        raise
    body = request[_BODY] = bytes(received)
    return body


@contextmanager
def _refuse_wrong_encoding() -> Iterator[None]:
    try:
        yield
    except web.RequestPayloadError as fault:
        raise Invalid("the body does not have the encoding that its Content-Encoding header names") from fault


def release_body(request: web.Request) -> None:
    """Drop the body and return its share. Call it when nothing refers to the body any more."""
    if _BODY in request:
        del request[_BODY]
    if _SHARE in request:
        request[_SHARE].release()
