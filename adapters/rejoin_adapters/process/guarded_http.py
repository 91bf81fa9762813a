"""The HTTP client for URLs that others name, guarded against server-side request forgery (SSRF).

The guard sits where sockets are created. It sees the IP address of every connection: of host names, literals,
names that resolve differently a second time, and redirects. So nothing in a URL has to be trusted.
"""

import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import Any

import aiohttp

from rejoin_protocol.security.public_address import Address, is_public

type Allowed = Callable[[Address, int], bool]

PORTS = frozenset({80, 443})


def is_fetchable(address: Address, port: int) -> bool:
    """Whether the address is on the public internet and the port is one of `PORTS`."""
    return port in PORTS and is_public(address)


@asynccontextmanager
async def open_guarded_client(
    allowed: Allowed, *, connections_max: int, headers: Mapping[str, str]
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that connects only to addresses that `allowed` accepts; others are a `PermissionError` within
    aiohttp's errors. Closes its connections at the end.
    """

    def create_guarded_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, target = info
        if not allowed(ip_address(target[0]), target[1]):
            raise PermissionError("not a public address")
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        socket_factory=create_guarded_socket, force_close=True, limit=connections_max
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        auto_decompress=False,
        trust_env=False,  # a proxy would connect for us, past the guard
    ) as http:
        yield http
