"""An HTTP transport for the providers' libraries that uses aiohttp's connections.

httpx2's own connections read a response in Python, set three timeouts for each read, and deregister the
socket from the event loop after each read: three times the CPU time. Owns connections, and the translation of
their errors to httpx2's; never retries or proxies. Importing it imports httpx2.

`httpx-aiohttp` does the same, but reports a refused connection as a timeout, and keeps cookies that the
requests of all tenants would share.
"""

import ssl
from collections.abc import AsyncIterator
from functools import cache
from typing import override

import aiohttp
import httpx2
from yarl import URL

from rejoin_runner.models.call_recording import ReportedRequest, is_recording

IDLE_CONNECTION_S = 5.0
"""Seconds after which an idle connection is closed: before a provider closes it."""


@cache
def provider_tls() -> ssl.SSLContext:
    """What this process trusts, for all connections to providers: reading the authorities takes 25 ms."""
    return httpx2.create_ssl_context()


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """The connections behind an `httpx2.AsyncClient`."""

    def __init__(self, connections_max: int) -> None:
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        assert isinstance(request.stream, httpx2.AsyncByteStream)  # noqa: S101
        body = b"".join([data async for data in request.stream])
        timeouts = request.extensions.get("timeout", {})
        url, headers = URL(str(request.url), encoded=True), request.headers.multi_items()
        reported = ReportedRequest()
        reported.sent(url, body)
        if is_recording():  # a compressed answer could not be read
            headers = [header for header in headers if header[0] != "accept-encoding"]
            headers.append(("accept-encoding", "identity"))
        try:
            response = await self._open_session().request(
                request.method,
                url,
                headers=headers,
                data=body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(
                    sock_connect=timeouts.get("connect"), sock_read=timeouts.get("read")
                ),
            )
        except BaseException as fault:
            reported.end()
            if isinstance(fault, aiohttp.ClientError | OSError):
                raise _translate_error(fault) from fault
            raise
        reported.answered(response.status)
        return httpx2.Response(
            response.status,
            headers=response.raw_headers,
            stream=_Body(response, reported),
            extensions={"http_version": b"HTTP/1.1"},
        )

    def _open_session(self) -> aiohttp.ClientSession:
        """The session, created on first use: it belongs to the event loop that runs then."""
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections_max,
                keepalive_timeout=IDLE_CONNECTION_S,
                ssl=provider_tls(),
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
    def __init__(self, response: aiohttp.ClientResponse, reported: ReportedRequest) -> None:
        self._response = response
        self._reported = reported

    @override
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for data in self._response.content.iter_any():
                self._reported.received(data)
                yield data
        except (aiohttp.ClientError, OSError) as fault:
            raise _translate_error(fault) from fault

    @override
    async def aclose(self) -> None:
        self._reported.end()
        self._response.close()  # after the last byte the connection is already back in the pool


def _translate_error(fault: Exception) -> httpx2.TransportError:
    match fault:
        case aiohttp.ConnectionTimeoutError():
            return httpx2.ConnectTimeout(str(fault))
        case TimeoutError():
            return httpx2.ReadTimeout(str(fault))
        case aiohttp.ClientConnectorError():
            return httpx2.ConnectError(str(fault))
        case _:
            return httpx2.ReadError(str(fault))
