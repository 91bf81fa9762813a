"""One NATS connection: its options, its errors, its liveness, and requests that have many replies.

Owns every word said to nats-py, so that the policy for a broker that is away stands in one place (`_seam`):
whatever goes wrong on the wire is `Unavailable`. It knows no stream and no subject of ours. nats-py's
JetStream layer is not used: its ordered consumers lose messages silently and its futures leak; `$JS.API` is
spoken here instead (NATS ADR-1, ADR-31).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
import nats.errors
import stamina
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from protocol import names
from protocol.adapters.tasks import beside
from protocol.errors import RejoinError, Unavailable

log = structlog.get_logger("rejoin.broker")

ASK_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 5.0
LIVENESS_PERIOD_S = 5.0
LIVENESS_TIMEOUT_S = 3.0
RECONNECT_WAIT_S = 0.1
PENDING_MESSAGES_MAX = 8_192
PENDING_BYTES_MAX = 16 * 1024 * 1024
"""A subscription's bounds in this process: what passes them is dropped, and `on_loss` is called."""


class ApiError(RejoinError):
    """JetStream refused. `code` is its `err_code`."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


class ApiFault(msgspec.Struct, frozen=True):
    """The error of a JetStream answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: ApiFault | None = None


_answer = msgspec.json.Decoder(_Answer)


@contextmanager
def _seam() -> Iterator[None]:
    """The broker is away, whatever nats-py calls it."""
    try:
        yield
    except (nats.errors.Error, OSError, TimeoutError) as fault:
        raise Unavailable(f"the broker does not answer ({type(fault).__name__})") from fault


class Broker:
    """A connection. Made by `connect`, which keeps it alive."""

    def __init__(self, name: str) -> None:
        self._client = Client()
        self._name = name
        self._returns: set[Callable[[], None]] = set()
        self._losses: dict[Subscription, Callable[[], None]] = {}
        self._collectors: dict[str, _Collector] = {}
        self._inbox = ""
        self._asked = 0
        self._closed = asyncio.Event()
        self._closing = False

    async def _open(self, url: str) -> None:
        with _seam():
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._client.connect(
                    url.split(","),
                    name=self._name,
                    inbox_prefix=f"_INBOX_{self._name}",
                    pending_size=0,  # a publish that failed must not be sent after the reconnect
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds, a float will do
                    ping_interval=10,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_return,
                    closed_cb=self._on_close,
                )
            self._inbox = self._client.new_inbox()
            await self._client.subscribe(f"{self._inbox}.*", cb=self._on_reply)

    # Callbacks. One that raises would stop nats-py's read loop for ever, so none of them does.

    async def _on_error(self, fault: Exception) -> None:
        if isinstance(fault, nats.errors.SlowConsumerError):
            on_loss = self._losses.get(fault.sub)
            if on_loss is not None:
                on_loss()
            return
        log.warning("broker_error", connection=self._name, error=str(fault) or type(fault).__name__)

    async def _on_disconnect(self) -> None:
        if not self._closing:
            log.warning("broker_disconnected", connection=self._name)

    async def _on_return(self) -> None:
        log.info("broker_reconnected", connection=self._name)
        for callback in tuple(self._returns):
            callback()

    async def _on_close(self) -> None:
        self._closed.set()

    async def _on_reply(self, message: Msg) -> None:
        collector = self._collectors.get(message.subject.rpartition(".")[2])
        if collector is not None:
            collector.add(message)

    async def watch(self) -> None:
        """Prove the connection alive, for ever: recycle one whose reader has died. Raises `Unavailable` once
        nats-py has given it up for good, as it does when the server refuses our credentials.
        """
        while True:
            try:
                async with asyncio.timeout(LIVENESS_PERIOD_S):
                    await self._closed.wait()
            except TimeoutError:
                pass
            else:
                raise Unavailable(f"the broker has closed the connection {self._name}")
            if self._client.is_connected:
                try:
                    await self._client.flush(timeout=LIVENESS_TIMEOUT_S)  # type: ignore[arg-type]
                except (nats.errors.Error, OSError, TimeoutError):
                    log.warning("broker_connection_recycled", connection=self._name)
                    await self._client.force_reconnect()

    async def close(self) -> None:
        """Close at once; what is pending is lost."""
        self._closing = True
        await self._client.close()

    @property
    def connected(self) -> bool:
        """Whether the socket is up at this moment."""
        return self._client.is_connected

    def on_return(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after every reconnect: messages may have been missed. Returns what ends that."""
        self._returns.add(callback)
        return lambda: self._returns.discard(callback)

    async def flush(self) -> None:
        """Until the server has seen everything sent so far."""
        with _seam():
            await self._client.flush(timeout=ASK_TIMEOUT_S)  # type: ignore[arg-type]

    async def send(self, subject: str, payload: bytes = b"", *, reply: str = "") -> None:
        """Publish without an answer."""
        with _seam():
            await self._client.publish(subject, payload, reply=reply)

    async def ask(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> Msg:
        """One request, one reply."""
        with _seam():
            return await self._client.request(
                subject, payload, timeout=timeout_s, headers=dict(headers) if headers else None
            )

    async def call(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A JetStream request: its answer as JSON. Raises `ApiError`."""
        reply = await self.ask(subject, payload, headers=headers)
        error = _answer.decode(reply.data).error
        if error is None:
            return reply.data
        if error.code in (408, 503):  # no leader, or too busy: the broker is away for this question
            raise Unavailable(f"the broker cannot answer now ({error.description})")
        raise ApiError(error.err_code, error.description)

    async def ask_many(self, subject: str, payload: bytes) -> list[Msg]:
        """One request, many replies, the last of which has a status header."""
        self._asked += 1
        token = str(self._asked)
        collector = self._collectors[token] = _Collector()
        try:
            await self.send(subject, payload, reply=f"{self._inbox}.{token}")
            with _seam():
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    await collector.complete.wait()
        finally:
            del self._collectors[token]
        return collector.messages

    async def subscribe(
        self, subject: str, on_message: Callable[[Msg], Awaitable[None]], on_loss: Callable[[], None]
    ) -> Callable[[], Awaitable[None]]:
        """Core subscription. `on_loss` is called when this process was too slow and messages were dropped.

        Returns what ends it.
        """
        with _seam():
            subscription = await self._client.subscribe(
                subject,
                cb=on_message,
                pending_msgs_limit=PENDING_MESSAGES_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
        self._losses[subscription] = on_loss

        async def end() -> None:
            self._losses.pop(subscription, None)
            with suppress(nats.errors.Error, ValueError):  # the connection is gone, the subscription with it
                await subscription.unsubscribe()

        return end

    def new_inbox(self) -> str:
        """A subject that only this connection listens to."""
        return self._client.new_inbox()


class _Collector:
    """The replies to one request, up to the one with a status."""

    def __init__(self) -> None:
        self.messages: list[Msg] = []
        self.complete = asyncio.Event()

    def add(self, message: Msg) -> None:
        self.messages.append(message)
        if message.headers is not None and names.STATUS in message.headers:
            self.complete.set()


async def _reachable(url: str) -> None:
    """Raise `OSError` unless one of the servers accepts a connection: nats-py would try for ever, mutely."""
    fault: OSError = OSError("no server is named")
    for server in url.split(","):
        parts = urlsplit(server)
        try:
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 4222)
        except OSError as refused:
            fault = refused
        else:
            writer.close()
            return
    raise fault


@asynccontextmanager
async def connect(url: str, name: str) -> AsyncIterator[Broker]:
    """A living connection to `nats://…` (several separated by commas), for as long as the context.

    Waits for a broker that is away, with back-off and a line in the log each time.
    """
    broker = Broker(name)
    attempts: Any = stamina.retry_context(
        on=(OSError, Unavailable), attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0
    )
    async for attempt in attempts:
        with attempt:
            await _reachable(url)
            await broker._open(url)  # noqa: SLF001
    try:
        async with beside(broker.watch()):
            yield broker
    finally:
        await broker.close()
