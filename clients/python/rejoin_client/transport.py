"""HTTP requests with retries, and the renewal of the credential.

Decides what is retried and for how long. `answer` reads the streams.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
import msgspec

from rejoin_client.errors import Lost, Malformed, Refused, RejoinError, Unauthenticated, parse_refusal

type Token = str | Callable[[], Awaitable[str]]

NOT_EXECUTED = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
"""Statuses of a request that the server has not executed."""
RETRYABLE = NOT_EXECUTED | {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.BAD_GATEWAY, HTTPStatus.GATEWAY_TIMEOUT}
"""Statuses after which a repetition may succeed. A proxy sends some of them, so the server may have executed
the request or not.
"""
CONNECTION_ERRORS = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError)
"""`OSError` includes `TimeoutError`."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often and for how long a client retries, in seconds.

    The delay doubles from `first_delay_s` to `delay_max_s`. It is longer if the server asks for it
    (`Retry-After`).
    """

    first_delay_s: float = 0.25
    delay_max_s: float = 5.0
    stream_retry_for_s: float = 600.0
    """How long an answer's stream is requested again without success. Then reading the answer raises the
    error.
    """
    call_retry_for_s: float = 30.0
    """The same limit for all other calls."""
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 30.0
    """How long a connection may deliver no byte. A gateway sends something every 10 s."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP request. `idempotent`: a second execution changes nothing, so that it can always be retried."""

    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] = {}
    query: Mapping[str, str] = {}
    idempotent: bool = True


class Credential:
    """The current token. Tokens are numbered, so that calls that fail together fetch one new token."""

    def __init__(self, token: Token | None) -> None:
        self._fetch = token if callable(token) else None
        self._token = None if callable(token) else token
        self._number = 0
        self._lock = asyncio.Lock()

    async def current(self) -> tuple[str | None, int]:
        """The token, fetched at the first call, and its number."""
        if self._token is None:
            await self.renew(0)
        return self._token, self._number

    async def renew(self, refused: int) -> bool:
        """Replace the token with the number `refused`, unless another call has replaced it.

        Returns False if there is no function to fetch a token. Raises what the function raises.
        """
        if self._fetch is None:
            return False
        async with self._lock:
            if self._number == refused:
                self._token = await self._fetch()
                self._number += 1
        return True


class Backoff:
    """The delays between retries. A delay is twice the one before it. Call `reset` after each success."""

    def __init__(self, retry: Retry, retry_for_s: float) -> None:
        self._retry = retry
        self._retry_for_s = retry_for_s
        self.reset()

    def reset(self) -> None:
        """Start again with the first delay and the whole time for retries."""
        self._next_s = self._retry.first_delay_s
        self._deadline_s: float | None = None

    async def wait(self, cause: RejoinError) -> None:
        """Sleep before the next try. Raises `cause` if the time for retries would be over by then."""
        now_s = asyncio.get_running_loop().time()
        if self._deadline_s is None:
            self._deadline_s = now_s + self._retry_for_s
        retry_after_s = (cause.retry_after_s or 0.0) if isinstance(cause, Refused) else 0.0
        delay_s = max(retry_after_s, self._next_s * random.uniform(0.75, 1.25))  # noqa: S311 - not a secret
        if now_s + delay_s > self._deadline_s:
            raise cause
        self._next_s = min(self._next_s * 2, self._retry.delay_max_s)
        await asyncio.sleep(delay_s)


class HttpTransport:
    """Sends requests to one server."""

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

    async def open(self, request: Request, backoff: Backoff) -> aiohttp.ClientResponse:
        """Send a request, and repeat it after errors that allow that: any lost connection and `RETRYABLE`
        statuses of an idempotent request, only `NOT_EXECUTED` statuses of any other one. Returns the
        response, whose body is not read yet.

        Raises `Refused` or `Lost`, and `ClientSSLError` for a wrong certificate, which no retry mends.
        """
        while True:
            try:
                return await self._send(request)
            except CONNECTION_ERRORS as fault:
                if isinstance(fault, aiohttp.ClientSSLError):
                    raise
                cause: RejoinError = _lost(request, fault)
                if not request.idempotent:
                    raise cause from fault
            except Refused as fault:
                if fault.status not in (RETRYABLE if request.idempotent else NOT_EXECUTED):
                    raise
                cause = fault
            await backoff.wait(cause)

    async def call[T](self, request: Request, kind: type[T]) -> T:
        """Send a request and decode the JSON body of the response. Raises as `open`, and `Malformed`."""
        backoff = Backoff(self.retry, self.retry.call_retry_for_s)
        while True:
            async with await self.open(request, backoff) as response:
                try:
                    return msgspec.json.decode(await response.read(), type=kind)
                except msgspec.DecodeError as fault:
                    raise Malformed(f"{request.method} {request.path}: {fault}") from fault
                except CONNECTION_ERRORS as fault:
                    cause = _lost(request, fault)
                    if not request.idempotent:
                        raise cause from fault
            await backoff.wait(cause)

    async def _send(self, request: Request) -> aiohttp.ClientResponse:
        """Send a request, once more with a renewed token if the server refuses the first one."""
        token, number = await self._credential.current()
        try:
            return await self._send_with_token(request, token)
        except Unauthenticated:
            if not await self._credential.renew(number):
                raise
        token, _ = await self._credential.current()
        return await self._send_with_token(request, token)

    async def _send_with_token(self, request: Request, token: str | None) -> aiohttp.ClientResponse:
        """Returns a successful response. Raises `Refused` or one of `CONNECTION_ERRORS`."""
        headers = {**self._headers, **request.headers}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        data = None
        if request.body is not None:
            data = msgspec.json.encode(request.body)
            headers["Content-Type"] = "application/json"
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.retry.connect_timeout_s, sock_read=self.retry.read_timeout_s
        )
        response = await self._http.request(
            request.method,
            self._base_url + request.path,
            data=data,
            headers=headers,
            params=request.query,
            timeout=timeout,
            allow_redirects=False,
        )
        if response.status >= HTTPStatus.MULTIPLE_CHOICES:
            async with response:
                raise parse_refusal(response.status, response.headers, await response.read())
        return response


def _lost(request: Request, fault: Exception) -> Lost:
    return Lost(f"{request.method} {request.path}: {str(fault) or type(fault).__name__}")
