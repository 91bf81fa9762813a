"""Leads the requests to any provider to the fake on loopback."""

from typing import override

import aiohttp
import httpx2
from yarl import URL

from rejoin_runner.models.providers.http_transport import provider_tls
from rejoin_runner.models.providers.provider import ProviderConnections


class Diverted(ProviderConnections):
    """Connections that lead every request to the fake, and remember where it was to go."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = URL(address)
        self.wanted: list[URL] = []

    @override
    def open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(middlewares=[self._lead])
        return self._session

    @override
    def open(self) -> httpx2.AsyncClient:
        if self._client is None:
            self._client = httpx2.AsyncClient(
                event_hooks={"request": [self._lead_library]}, timeout=30.0, verify=provider_tls()
            )
        return self._client

    async def _lead(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        request.url = self._find_fake(request.url)
        return await handler(request)

    async def _lead_library(self, request: httpx2.Request) -> None:
        request.url = httpx2.URL(str(self._find_fake(URL(str(request.url)))))

    def _find_fake(self, wanted: URL) -> URL:
        self.wanted.append(wanted)
        return self._address.with_path(f"/v1/{wanted.path.rpartition('/')[2]}")
