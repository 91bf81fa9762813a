"""Reading the bodies of requests, only so many bytes of large ones at once.

A body with files costs several times itself while it is read, and stays until its files are stored. So a
large one takes a share of what there is before its first byte is read, and gives it back when nothing of it
is held any more. What does not say how large it is counts as the largest until that is known.
"""

import asyncio

from aiohttp import web
from rejoin_protocol.errors import Unavailable

from rejoin_gateway.fair_share import FairShare, Share

BODY_BYTES_MAX = 48 * 1024 * 1024
"""Three files of the largest size as data URLs; such a body costs four times itself while it is read."""
LARGE_BODY_BYTES = 1024 * 1024
"""What is not larger is not counted."""
LARGE_BODIES_BYTES_MAX = 256 * 1024 * 1024
"""Of large bodies at once in one gateway."""
WAIT_S = 5.0
READ_TIMEOUT_S = 120.0
"""Of a large body, which nobody else has room for meanwhile."""
RETRY_AFTER_S = 5

SHARE: web.RequestKey[Share] = web.RequestKey("share", Share)


async def read(request: web.Request, shares: FairShare, tenant: str) -> bytes:
    """The body; read again, it is the same one. Raises `Unavailable`, and aiohttp's 408 and 413."""
    size = BODY_BYTES_MAX if "Content-Encoding" in request.headers else request.content_length
    if size is None and request.body_exists:
        size = BODY_BYTES_MAX
    if size is None or size <= LARGE_BODY_BYTES or SHARE in request:
        return await request.read()
    if size > BODY_BYTES_MAX:
        raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, size)
    try:
        async with asyncio.timeout(WAIT_S):
            share = request[SHARE] = await shares.take(tenant, size)
    except TimeoutError:
        raise Unavailable("too many large requests at once", RETRY_AFTER_S) from None
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            raw = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    share.release(size - len(raw) if len(raw) > LARGE_BODY_BYTES else size)
    return raw


def release_body(request: web.Request) -> None:
    """Nothing of the body is held any more, or soon will be."""
    request._read_bytes = None  # noqa: SLF001  # aiohttp would keep it until the end of the response
    if SHARE in request:
        request[SHARE].release()
