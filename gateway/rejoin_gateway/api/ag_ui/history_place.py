"""Bounds the snapshots of threads that a gateway collects and writes at the same time."""

import asyncio

from aiohttp import web

from rejoin_adapters.process.fair_share import Share
from rejoin_gateway.http.gateway_service import PRINCIPAL, SERVICE
from rejoin_protocol.limits import PAGE_WRITE_S_MAX


class HistoryPlace:
    """A request's place among the histories that a gateway collects and writes at the same time. A client
    that does not read its own in time is cut: others wait for the place.
    """

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._share: Share | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the request holds its place."""
        return self._share is not None

    async def take(self) -> None:
        """Wait for a place, unless the request holds one."""
        if self._share is None:
            tenant = self._request[PRINCIPAL].owner.tenant
            self._share = await self._request.app[SERVICE].history_pages.take(tenant)
            self._timer = asyncio.get_running_loop().call_later(PAGE_WRITE_S_MAX, self._cut)

    def release(self) -> None:
        """Give the place back, if the request holds one."""
        if self._timer is not None:
            self._timer.cancel()
        if self._share is not None:
            self._share.release()
        self._share = self._timer = None

    def _cut(self) -> None:
        if self._request.transport is not None:
            self._request.transport.abort()
