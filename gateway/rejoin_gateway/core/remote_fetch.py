"""Gets a file from an address that a client named, without becoming that client's hands in our network.

The guard stands where a socket is made: it sees the address of every connection, whether it came from a name,
a literal, a name that changed its mind, or a redirect. So nothing that is said in a URL has to be believed.
Everything else is bounded: redirects, seconds, bytes. What goes wrong is `Invalid`, and does not tell what
answers where: a refused address and a dead one look the same.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import aiohttp
import msgspec
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import TenantId
from rejoin_protocol.security.public_address import Address, is_public
from yarl import URL

from rejoin_gateway.fair_share import FairShare

type Allowed = Callable[[Address, int], bool]

PORTS = frozenset({80, 443})
REDIRECTS_MAX = 3
FETCH_TIMEOUT_S = 10.0
FETCHES_MAX = 8
"""At once in one gateway, `media.FILE_BYTES_MAX` of memory each. One tenant has half of them at most."""
URL_CHARS_MAX = 8_192
READ_BYTES = 64 * 1024
HEADERS = {"Accept": "image/png, image/jpeg, image/webp, application/pdf", "Accept-Encoding": "identity"}


class FetchedFile(msgspec.Struct, frozen=True):
    """A body and the media type it was sent with."""

    data: bytes
    media_type: str


def is_fetchable(address: Address, port: int) -> bool:
    """Whether anybody on the internet could connect there, and to a web server's port."""
    return port in PORTS and is_public(address)


class RemoteFetcher:
    """Gets files. Made by `opened`."""

    def __init__(self, http: aiohttp.ClientSession, timeout_s: float = FETCH_TIMEOUT_S) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._shares = FairShare(FETCHES_MAX)

    async def get(self, url: str, tenant: TenantId) -> FetchedFile:
        """What an http or https URL leads to, for a tenant. Waits its turn for as long as the caller lets it.
        Raises `Invalid`.
        """
        share = await self._shares.take(tenant)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(_checked(url))
        except TimeoutError:
            raise Invalid(f"it was not there within {self._timeout_s:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as fault:  # ValueError: what yarl and idna refuse
            raise Invalid("it cannot be fetched: is it public, on port 80 or 443, and there?") from fault
        finally:
            share.release()

    async def _follow(self, url: URL) -> FetchedFile:
        for _ in range(REDIRECTS_MAX + 1):
            async with self._http.get(url, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    return await _read(response)
                url = _checked(str(url.join(URL(response.headers.get("Location", "")))))
        raise Invalid(f"it is more than {REDIRECTS_MAX} redirects away")


def _checked(text: str) -> URL:
    """A URL that we are willing to ask. Where it leads is the guard's to say."""
    if len(text) > URL_CHARS_MAX:
        raise Invalid(f"a URL has at most {URL_CHARS_MAX} characters")
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise Invalid("a file's URL is a data, http or https URL")
    if url.user is not None or url.password is not None:
        raise Invalid("a URL must not hold credentials")
    return url.with_fragment(None)


async def _read(response: aiohttp.ClientResponse) -> FetchedFile:
    if response.status != 200:  # noqa: PLR2004
        raise Invalid(f"it was answered with status {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Invalid("it is compressed, though that was not asked for")
    if (response.content_length or 0) > file_formats.FILE_BYTES_MAX:
        raise file_formats.too_large_error()
    data = bytearray()
    async for piece in response.content.iter_chunked(READ_BYTES):
        data += piece
        if len(data) > file_formats.FILE_BYTES_MAX:
            raise file_formats.too_large_error()
    return FetchedFile(bytes(data), response.content_type)


@asynccontextmanager
async def open_fetcher(
    allowed: Allowed = is_fetchable, timeout_s: float = FETCH_TIMEOUT_S
) -> AsyncIterator[RemoteFetcher]:
    """A `Fetch` that connects only to what is `allowed`, for as long as the context."""

    def guarded(info: Any) -> socket.socket:
        family, kind, protocol, _, target = info
        if not allowed(ip_address(target[0]), target[1]):
            raise PermissionError("not a public address")
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(socket_factory=guarded, force_close=True, limit=FETCHES_MAX)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=HEADERS,
        auto_decompress=False,
        trust_env=False,  # a proxy would connect for us, unguarded
    ) as http:
        yield RemoteFetcher(http, timeout_s)
