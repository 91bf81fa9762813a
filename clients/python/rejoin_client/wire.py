"""Requests: with a credential that is renewed when it must be, and made again when nobody answered.

Owns what may be repeated, and for how long. Never reads an answer: `answer` does.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from rejoin_client.errors import Lost, Malformed, Refused, RejoinError, Unauthenticated, refusal

type Token = str | Callable[[], Awaitable[str]]

UNDONE = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""The server says so: what was asked was not done."""
AWAY = UNDONE | {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
"""Somebody in between answers; nobody knows."""
BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, TimeoutError, OSError)


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How a client waits. Waits double from `first_s` to `max_s`; what the server wishes for is kept."""

    first_s: float = 0.25
    max_s: float = 5.0
    patience_s: float = 600.0
    """How long an answer may be silent before it is given up."""
    call_patience_s: float = 30.0
    """The same for a call that is not an answer."""
    connect_s: float = 10.0
    silence_s: float = 30.0
    """A gateway says something every ten seconds: after so many without a byte the connection is dead."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request. `again`: it may be made twice, because the second time changes nothing."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    again: bool = True


class Credential:
    """The token in use. `renew` is given the number of the one that was refused: who finds another one in its
    place takes that, so that many refused calls fetch one token.
    """

    def __init__(self, token: Token | None) -> None:
        self._fetch = token if callable(token) else None
        self._token = None if callable(token) else token
        self._number = 0
        self._one_at_a_time = asyncio.Lock()

    async def current(self) -> tuple[str | None, int]:
        """The token, fetched if there is none yet, and its number."""
        if self._token is None:
            await self.renew(0)
        return self._token, self._number

    async def renew(self, refused: int) -> bool:
        """Whether there is another token than the refused one. Raises what the function raises."""
        if self._fetch is None:
            return False
        async with self._one_at_a_time:
            if self._number == refused:
                self._token = await self._fetch()
                self._number += 1
        return True


class Pauses:
    """The waits between tries: longer each time, short again once something was `decode_events`."""

    def __init__(self, retry: Retry, patience_s: float) -> None:
        self._retry = retry
        self._patience_s = patience_s
        self.heard()

    def heard(self) -> None:
        """Somebody answered."""
        self._next_s = self._retry.first_s
        self._until: float | None = None

    async def wait(self, cause: RejoinError) -> None:
        """Before the next try. Raises the cause when patience is over."""
        now_s = asyncio.get_running_loop().time()
        if self._until is None:
            self._until = now_s + self._patience_s
        wish_s = (cause.retry_after_s or 0.0) if isinstance(cause, Refused) else 0.0
        wait_s = max(wish_s, self._next_s * random.uniform(0.75, 1.25))  # noqa: S311 - spreads, hides nothing
        if now_s + wait_s > self._until:
            raise cause
        self._next_s = min(self._next_s * 2, self._retry.max_s)
        await asyncio.sleep(wait_s)


class Wire:
    """One server."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        base_url: str,
        *,
        credential: Credential,
        headers: Mapping[str, str],
        retry: Retry,
    ) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._credential = credential
        self._headers = headers
        self.retry = retry

    async def asked(self, ask: Ask, pauses: Pauses) -> aiohttp.ClientResponse:
        """The response, a success, with its body to be read. Raises `Refused`, `Lost`."""
        while True:
            try:
                response = await self._once(ask)
            except BROKEN as fault:
                if isinstance(fault, aiohttp.ClientSSLError):
                    raise  # it would fail for ever
                cause: RejoinError = _lost(ask, fault)
                if not ask.again:
                    raise cause from fault
            except Refused as fault:
                if fault.status not in (AWAY if ask.again else UNDONE):
                    raise
                cause = fault
            else:
                return response
            await pauses.wait(cause)

    async def call[T](self, ask: Ask, kind: type[T]) -> T:
        """The JSON of a response. Raises as `asked`, and `Malformed`."""
        pauses = Pauses(self.retry, self.retry.call_patience_s)
        while True:
            async with await self.asked(ask, pauses) as response:
                try:
                    return msgspec.json.decode(await response.read(), type=kind)
                except msgspec.DecodeError as fault:
                    raise Malformed(f"{ask.method} {ask.path}: {fault}") from fault
                except BROKEN as fault:
                    cause = _lost(ask, fault)
                    if not ask.again:
                        raise cause from fault
            await pauses.wait(cause)

    async def _once(self, ask: Ask) -> aiohttp.ClientResponse:
        token, number = await self._credential.current()
        try:
            return await self._sent(ask, token)
        except Unauthenticated:
            if not await self._credential.renew(number):
                raise
        token, _ = await self._credential.current()
        return await self._sent(ask, token)

    async def _sent(self, ask: Ask, token: str | None) -> aiohttp.ClientResponse:
        """The response to one request, a success. Raises `Refused` and `BROKEN`."""
        headers = {**self._headers, **ask.headers}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None
        if ask.body is not None:
            data = msgspec.json.encode(ask.body)
            headers["Content-Type"] = "application/json"
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=self.retry.connect_s, sock_read=self.retry.silence_s
        )
        response = await self._http.request(
            ask.method,
            self._base_url + ask.path,
            data=data,
            headers=headers,
            params=ask.query,
            timeout=limits,
            allow_redirects=False,
        )
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            async with response:
                raise refusal(response.status, response.headers, await response.read())
        return response


def _lost(ask: Ask, fault: Exception) -> Lost:
    return Lost(f"{ask.method} {ask.path}: {str(fault) or type(fault).__name__}")
