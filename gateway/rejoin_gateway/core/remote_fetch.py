"""Fetches files from URLs that clients name, with the guarded HTTP client.

Redirects, seconds and bytes are bounded. Every failure is `Invalid` with the same text for a refused and for
a dead address, so that a client cannot scan the network.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from yarl import URL

from rejoin_adapters.process.fair_share import FairShare
from rejoin_adapters.process.guarded_http import Allowed, is_fetchable, open_guarded_client
from rejoin_protocol import file_formats
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import FILE_BYTES_MAX, URL_CHARS_MAX

REDIRECTS_MAX = 3
REMOTE_FETCH_TIMEOUT_S = 10.0
FETCHES_MAX = 8
"""At the same time in one gateway, each with up to `FILE_BYTES_MAX` in memory. One tenant gets
at most half of them.
"""
READ_BYTES = 64 * 1024
REMOTE_FETCH_HEADERS = {
    "Accept": "image/png, image/jpeg, image/webp, application/pdf",
    "Accept-Encoding": "identity",
}


class FetchedFile(msgspec.Struct, frozen=True):
    """A response's body and the media type in its headers."""

    data: bytes
    media_type: str


class RemoteFetcher:
    """Fetches files. Created by `open_fetcher`."""

    def __init__(self, http: aiohttp.ClientSession, timeout_s: float = REMOTE_FETCH_TIMEOUT_S) -> None:
        self._http = http
        self._timeout_s = timeout_s
        self._shares = FairShare(FETCHES_MAX)

    async def get(self, url: str, tenant: TenantId) -> FetchedFile:
        """The file at an http or https URL. Waits for the tenant's share of the fetches, without a timeout of
        its own. Raises `Invalid`.
        """
        share = await self._shares.take(tenant)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._follow(_check_url(url))
        except TimeoutError:
            raise Invalid(f"the file could not be fetched within {self._timeout_s:g} seconds") from None
        except (
            aiohttp.ClientError,
            OSError,
            ValueError,
        ) as fault:  # ValueError: yarl and idna refuse the URL
            raise Invalid("the file cannot be fetched: its URL must be public, on port 80 or 443") from fault
        finally:
            share.release()

    async def _follow(self, url: URL) -> FetchedFile:
        for _ in range(REDIRECTS_MAX + 1):
            async with self._http.get(url, allow_redirects=False) as response:
                if response.status not in (301, 302, 303, 307, 308):
                    return await _read_response(response)
                url = _check_url(str(url.join(URL(response.headers.get("Location", "")))))
        raise Invalid(f"the file's URL redirects more than {REDIRECTS_MAX} times")


def _check_url(text: str) -> URL:
    """Check what can be checked without connecting. The guard checks the address."""
    if len(text) > URL_CHARS_MAX:
        raise Invalid(f"a URL has at most {URL_CHARS_MAX} characters")
    url = URL(text)
    if url.scheme not in ("http", "https") or not url.host:
        raise Invalid("a file's URL is a data, http or https URL")
    if url.user is not None or url.password is not None:
        raise Invalid("a URL must not hold credentials")
    return url.with_fragment(None)


async def _read_response(response: aiohttp.ClientResponse) -> FetchedFile:
    if response.status != 200:  # noqa: PLR2004
        raise Invalid(f"the file's server responded with status {response.status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Invalid("the file's server sent a compressed body, which is not taken")
    if (response.content_length or 0) > FILE_BYTES_MAX:
        raise file_formats.too_large_error()
    data = bytearray()
    async for chunk in response.content.iter_chunked(READ_BYTES):
        data += chunk
        if len(data) > FILE_BYTES_MAX:
            raise file_formats.too_large_error()
    return FetchedFile(bytes(data), response.content_type)


@asynccontextmanager
async def open_fetcher(
    allowed: Allowed = is_fetchable, timeout_s: float = REMOTE_FETCH_TIMEOUT_S
) -> AsyncIterator[RemoteFetcher]:
    """A fetcher that connects only to addresses that `allowed` accepts. Closes its connections at the end."""
    async with open_guarded_client(
        allowed, connections_max=FETCHES_MAX, headers=REMOTE_FETCH_HEADERS
    ) as http:
        yield RemoteFetcher(http, timeout_s)
