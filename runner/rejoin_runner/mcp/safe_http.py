"""HTTP to MCP servers whose address comes from configuration, safe against access to private networks (SSRF).

The check is made where a connection is made: the backend resolves the name itself and connects to the address
that it has checked. Responses, and each event of an event stream, are bounded in size; compressed responses
are refused because their real size is unknown. Proxies of the environment are not used: a proxy would connect
without the check.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from functools import cache
from ipaddress import ip_address
from typing import Any

import httpcore2
import httpx2

from rejoin_protocol.security.public_address import is_public
from rejoin_runner.mcp.server_declaration import McpServer

RESPONSE_BYTES_MAX = 8 * 1024 * 1024
MCP_CONNECT_TIMEOUT_S = 10.0
_EVENT_ENDS = re.compile(rb"\n\r?\n|\r\r")


class AddressNotPublic(httpcore2.ConnectError):
    """The host name resolves to an address that is not public."""


class PublicNetworkBackend(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only, never to a private network or this machine."""

    def __init__(self) -> None:
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore2's interface has it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """See `httpcore2`. Connects to the first address that answers, if all of them are public."""
        try:
            resolved = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as fault:
            raise httpcore2.ConnectError(str(fault)) from fault
        addresses = list(dict.fromkeys(str(entry[4][0]).partition("%")[0] for entry in resolved))
        if not addresses or not all(is_public(ip_address(address)) for address in addresses):
            raise AddressNotPublic("not a public address")
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """See `httpcore2`."""
        await self._inner.sleep(seconds)


class BoundedStream(httpx2.AsyncByteStream):
    """A response body of at most `RESPONSE_BYTES_MAX`; with `events`, of at most that much per event."""

    def __init__(self, inner: httpx2.AsyncByteStream, *, events: bool) -> None:
        self._inner = inner
        self._events = events

    async def __aiter__(self) -> AsyncIterator[bytes]:
        remaining = RESPONSE_BYTES_MAX
        async for piece in self._inner:
            remaining -= len(piece)
            if remaining < 0:
                raise httpx2.ReadError("the answer is too large")
            if self._events and _EVENT_ENDS.search(piece):
                remaining = RESPONSE_BYTES_MAX
            yield piece

    async def aclose(self) -> None:
        """See `httpx2`."""
        await self._inner.aclose()


@cache
def _server_tls() -> ssl.SSLContext:
    """What this process trusts, for all servers: reading the authorities takes 25 ms."""
    return httpx2.create_ssl_context(trust_env=False)


class SafeTransport(httpx2.AsyncHTTPTransport):
    """httpx2's transport with bounded responses, over `PublicNetworkBackend` unless `allow_private`.

    Raises `RuntimeError` if the backend cannot be set in the installed httpx2.
    """

    def __init__(self, *, allow_private: bool) -> None:
        super().__init__(verify=_server_tls(), trust_env=False)
        if not allow_private:
            # httpx2 has no public way to set the backend. A test checks that this one works; here a version
            # without the attribute fails instead of connecting without the check.
            if not isinstance(getattr(self, "_pool", None), httpcore2.AsyncConnectionPool):
                raise RuntimeError("this version of httpx2 cannot be limited to public addresses")
            self._pool = httpcore2.AsyncConnectionPool(
                ssl_context=_server_tls(),
                max_connections=100,
                keepalive_expiry=30.0,
                network_backend=PublicNetworkBackend(),
            )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See `httpx2`."""
        response = await super().handle_async_request(request)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise httpx2.ReadError("the answer is compressed, and was not asked to be")
        if isinstance(response.stream, httpx2.AsyncByteStream):
            events = response.headers.get("content-type", "").startswith("text/event-stream")
            response.stream = BoundedStream(response.stream, events=events)
        return response


def http_client(server: McpServer) -> httpx2.AsyncClient:
    """The HTTP client for one server. A stream may be silent for `timeout_s` seconds."""
    return httpx2.AsyncClient(
        headers={**server.headers, "Accept-Encoding": "identity"},
        timeout=httpx2.Timeout(min(MCP_CONNECT_TIMEOUT_S, server.timeout_s), read=server.timeout_s),
        transport=SafeTransport(allow_private=server.allow_private),
        trust_env=False,
    )
