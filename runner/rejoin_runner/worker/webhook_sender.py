"""Sends webhooks: takes deliveries from the outbox, posts them, and stores what became of them.

At least once: a sender that dies between the two leaves a lease, after which another sender sends again. A
receiver that hangs holds a few of the sender's places for a bounded time, and no run waits for any of it.
Redirects are not followed. `410 Gone` switches the endpoint off, as Standard Webhooks says.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec
import structlog

from rejoin_adapters.ports.webhooks import DueWebhook, WebhookOutbox, WebhookResult
from rejoin_protocol.errors import Unavailable
from rejoin_protocol.ids import TenantId
from rejoin_protocol.security.sealing import Sealer, UnsealError
from rejoin_protocol.security.webhook_signature import message_id, sealing_place, sign
from rejoin_runner.run.metrics import WebhookMetrics

log = structlog.get_logger("rejoin.webhooks")

SENDS_MAX = 32
"""At the same time in one runner."""
ENDPOINT_SENDS_MAX = 4
TENANT_SENDS_MAX = 8
"""At the same time over all runners."""
RETRY_FACTOR = 4
RETRY_S_MAX = 4 * 3600.0
FORGET_PERIOD_S = 60.0
BACKLOG_PERIOD_S = 10.0
RETRY_AFTER_CHARS_MAX = 64
GONE = 410
HEADERS: Mapping[str, str] = {"Content-Type": "application/json", "User-Agent": "rejoin-webhooks/1"}


class WebhookLimits(msgspec.Struct, frozen=True):
    """Times in seconds. `retry_s`: before the second attempt; each further one waits four times as long."""

    timeout_s: float = 15.0
    retry_s: float = 5.0
    poll_s: float = 1.0

    @property
    def lease_s(self) -> float:
        """How long no other sender takes a delivery: an attempt, and its result."""
        return 3 * self.timeout_s


def retry_delay_s(attempt: int, first_s: float, asked_s: float | None, share: float) -> float:
    """The pause after a failed attempt, which counts from 1. `asked_s`: what the receiver has asked for.
    `share`, from 0 to 1, is drawn: pauses differ by up to a quarter, so that what failed together does not
    come again together.
    """
    pause_s = min(first_s * float(RETRY_FACTOR) ** min(attempt - 1, 20), RETRY_S_MAX)
    return max(pause_s * (0.75 + share / 2), min(asked_s or 0.0, RETRY_S_MAX))


def parse_retry_after(text: str | None, now_s: float) -> float | None:
    """Seconds that `Retry-After` (RFC 9110, 10.2.3) asks to wait: a number, or a date. None for anything
    else.
    """
    if text is None or len(text) > RETRY_AFTER_CHARS_MAX:
        return None
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_s)
    except (ValueError, OverflowError):
        return None


class WebhookSender:
    """Sends until it is cancelled. `request_http`: for the URLs that requests name. `draw`: a random number
    from 0 to 1.
    """

    def __init__(
        self,
        outbox: WebhookOutbox,
        http: aiohttp.ClientSession,
        request_http: aiohttp.ClientSession,
        sealer: Sealer,
        limits: WebhookLimits,
        *,
        metrics: WebhookMetrics,
        now_ms: Callable[[], int],
        draw: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._http = http
        self._request_http = request_http
        self._sealer = sealer
        self._limits = limits
        self._metrics = metrics
        self._now_ms = now_ms
        self._draw = draw
        self._active = 0
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Send what is due. An outbox that is away is asked again later."""
        clock = asyncio.get_running_loop().time
        forget_at = count_at = clock()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self._start_due(group)
                    if clock() >= forget_at:
                        await self._outbox.forget()
                        forget_at = clock() + FORGET_PERIOD_S
                    if clock() >= count_at:
                        backlog = await self._outbox.backlog()
                        self._metrics.wait(backlog.pending, backlog.oldest_s)
                        count_at = clock() + BACKLOG_PERIOD_S
                except Unavailable as fault:
                    log.warning("webhooks_wait", error=str(fault))
                    await asyncio.sleep(self._limits.poll_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._limits.poll_s):
                        await self._ended.wait()
                self._ended.clear()

    async def _start_due(self, group: asyncio.TaskGroup) -> None:
        free = SENDS_MAX - self._active
        if not free:
            return
        for delivery in await self._outbox.claim(
            free, each=ENDPOINT_SENDS_MAX, tenant=TENANT_SENDS_MAX, lease_s=self._limits.lease_s
        ):
            self._active += 1
            group.create_task(self._send(delivery))

    async def _send(self, delivery: DueWebhook) -> None:
        """One attempt. A result that cannot be stored is a repetition after the lease."""
        try:
            result = await self._attempt(delivery)
            if result.error is not None:
                log.info(
                    "webhook_not_delivered",
                    endpoint=delivery.endpoint,
                    attempt=delivery.attempt,
                    error=result.error,
                )
            state = await self._outbox.settle(delivery, result)
            if state is not None:
                self._metrics.attempted("retried" if state == "pending" else state)
        except Unavailable as fault:
            log.warning("webhook_result_not_stored", endpoint=delivery.endpoint, error=str(fault))
        finally:
            self._active -= 1
            self._ended.set()

    async def _attempt(self, delivery: DueWebhook) -> WebhookResult:
        first_s, share = self._limits.retry_s, self._draw()
        retry_s = retry_delay_s(delivery.attempt, first_s, None, share)
        try:
            secrets = self._open_secrets(delivery)
        except UnsealError as fault:
            return WebhookResult(str(fault), retry_s)
        body = bytes(delivery.payload)
        signed = sign(secrets, message_id(delivery.endpoint, delivery.number), self._now_ms() // 1_000, body)
        http = self._request_http if delivery.by_request else self._http
        try:
            async with (
                asyncio.timeout(self._limits.timeout_s),
                http.post(delivery.url, data=body, headers=signed, allow_redirects=False) as response,
            ):
                status, said = response.status, response.headers.get("Retry-After")
        except TimeoutError:
            return WebhookResult(f"no answer within {self._limits.timeout_s:g} seconds", retry_s)
        except (aiohttp.ClientError, OSError, ValueError) as fault:
            return WebhookResult(f"not reachable ({type(fault).__name__})", retry_s)
        if 200 <= status < 300:  # noqa: PLR2004
            return WebhookResult()
        asked_s = parse_retry_after(said, self._now_ms() / 1_000)
        retry_s = retry_delay_s(delivery.attempt, first_s, asked_s, share)
        return WebhookResult(f"status {status}", retry_s, is_gone=status == GONE)

    def _open_secrets(self, delivery: DueWebhook) -> list[str]:
        """The secrets that sign, the newest first. Raises `UnsealError`."""
        tenant, place = TenantId(delivery.tenant), sealing_place(delivery.endpoint)
        sealed = [delivery.secret, *([delivery.old_secret] if delivery.old_secret is not None else [])]
        return [str(self._sealer.open(one, tenant, place)) for one in sealed]
