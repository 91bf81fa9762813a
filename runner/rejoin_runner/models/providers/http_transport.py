"""HTTP for the providers' libraries, by aiohttp: for them it is the client that they know.

Its own connections read an answer in Python, set three time-outs for each read, and take the socket out of
the event loop after each: three times the cost. Owns connections, and what their failures are called in the
libraries' words; never a request, nor whether it is made again, nor a way through a proxy. Importing it
imports httpx2.
"""

from collections.abc import AsyncIterator
from typing import override

import aiohttp
import httpx2
from yarl import URL

IDLE_S = 5.0
"""An idle connection is closed before a provider closes it."""


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """The connections behind an `httpx2.AsyncClient`."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)  # noqa: S101
        body = b"".join([piece async for piece in request.stream])
        seconds = request.extensions.get("timeout", {})
        try:
            answer = await self._open().request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=request.headers.multi_items(),
                data=body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=seconds.get("connect"), sock_read=seconds.get("read")
                ),
            )
        except (aiohttp.ClientError, OSError) as fault:
            raise _named(fault) from fault
        return httpx2.Response(
            answer.status,
            headers=answer.raw_headers,
            stream=_Body(answer),
            extensions={"http_version": b"HTTP/1.1"},
        )

    def _open(self) -> aiohttp.ClientSession:
        """Made on first use: it belongs to the loop that runs then."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections_max, keepalive_timeout=IDLE_S, ssl=httpx2.create_ssl_context()
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,  # httpx2 does it
            )
        return self._session

    @override
    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


class _Body(httpx2.AsyncByteStream):
    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._answer = answer

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._answer.content.iter_any():
                yield piece
        except (aiohttp.ClientError, OSError) as fault:
            raise _named(fault) from fault

    @override
    async def aclose(self) -> None:
        self._answer.close()  # one that has been read to its end has given its connection back by now


def _named(fault: Exception) -> httpx2.TransportError:
    match fault:
        case aiohttp.ConnectionTimeoutError():
            return httpx2.ConnectTimeout(str(fault))
        case TimeoutError():
            return httpx2.ReadTimeout(str(fault))
        case aiohttp.ClientConnectorError():
            return httpx2.ConnectError(str(fault))
        case _:
            return httpx2.ReadError(str(fault))
