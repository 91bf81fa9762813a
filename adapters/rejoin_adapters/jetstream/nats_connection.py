"""One NATS connection: its options, its errors, its liveness, and requests that have many replies.

Owns every word said to nats-py, so that the policy for a broker that is away stands in one place (`_wire`):
whatever goes wrong there is `Unavailable`, at once while it is away. It knows no stream and no subject of
ours. nats-py's
JetStream layer is not used: its ordered consumers lose messages silently and its futures leak; `$JS.API` is
spoken here instead (NATS ADR-1, ADR-31).
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import msgspec
import nats.errors
import stamina
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable

from rejoin_adapters.jetstream.nats_client import Deliver, NatsClient, RawMessage
from rejoin_adapters.jetstream.request_mux import RequestMux, encode_headers
from rejoin_adapters.service import tls
from rejoin_adapters.service.background import run_alongside

log = structlog.get_logger("rejoin.broker")

ASK_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 5.0
LIVENESS_PERIOD_S = 5.0
LIVENESS_TIMEOUT_S = 3.0
RECONNECT_WAIT_S = 0.1
NOBODY = "503"
"""Nobody listens to what was asked."""
PING = b"PING\r\n"
REFUSAL = "Authorization Violation"
REFUSED = "the broker refuses our credentials"
DENIAL = re.compile(r'permissions violation for (publish|subscription) to "(.*?)"', re.IGNORECASE)
STORE_REFUSED = 10077
"""A limit of the stream says no. It comes as a 503, but asking again would not help."""
PENDING_MESSAGES_MAX = 8_192
PENDING_BYTES_MAX = 16 * 1024 * 1024
"""The bounds of a `subscribe` in this process: what passes them is dropped, and `on_loss` is called."""


class PermissionDenied(Unavailable):
    """The broker's permissions do not allow it. It stays so: asking again does not help."""


class ApiError(RejoinError):
    """JetStream refused. `code` is its `err_code`."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


class ApiErrorBody(msgspec.Struct, frozen=True):
    """The error of a JetStream answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct, frozen=True):
    error: ApiErrorBody | None = None


_answer = msgspec.json.Decoder(_Answer)


class NatsConnection:
    """A connection. Made by `connect`, which keeps it alive."""

    def __init__(self, name: str) -> None:
        self._client = NatsClient()
        self._name = name
        self._prefix = subjects.API
        self._returns: set[Callable[[], None]] = set()
        self._losses: dict[Subscription, Callable[[], None]] = {}
        self._questions = RequestMux(self._client)
        self._waits: set[asyncio.Timeout] = set()
        self._over = asyncio.Event()
        self._living = False
        self._fault = ""
        self._refusal = ""

    async def open(self, to: BrokerUrl, secure: ssl.SSLContext | None) -> None:
        """One try, after which nats-py keeps the connection by itself: its own first connect never gives up
        and never says why. Raises `Unavailable`, or `RejoinError` if either side refuses the other.
        """
        self._prefix = to.api
        self._client.tls_only = secure is not None
        role = self._name.partition("-")[0]
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._client.connect(
                    list(to.servers),
                    name=self._name,
                    # Not from the URL: servers that the cluster names later have none.
                    user=to.user,
                    password=to.password,
                    token=to.token,
                    tls=secure,
                    inbox_prefix=subjects.inbox(role),
                    pending_size=0,  # a publish that failed must not be sent after the reconnect
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # seconds, a float will do
                    ping_interval=10,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_return,
                    closed_cb=self._on_close,
                )
        except (nats.errors.Error, OSError, TimeoutError) as fault:
            self._fault = self._fault or type(fault).__name__
            if secure is not None and to.certificate is None and self._client._server_info.get("tls_verify"):  # noqa: SLF001
                self._refusal = f"the broker {tls.UNSHOWN}"  # it breaks off, often without saying why
            raise self._end() from (None if self._refusal else fault)
        self._client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
        async with self._wire(ASK_TIMEOUT_S):
            await self._questions.open()
        self._living = True

    @asynccontextmanager
    async def _wire(self, timeout_s: float) -> AsyncIterator[None]:
        """Around every word to nats-py: the broker is away, whatever it calls that and however late."""
        self._must_be_there()
        try:
            async with asyncio.timeout(timeout_s) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except (nats.errors.Error, OSError, TimeoutError) as fault:
            raise _away(fault) from fault

    def _must_be_there(self) -> None:
        if not self._client.is_connected:  # nats-py would keep some words for later, and leak others
            raise Unavailable("the broker is away")

    def _end(self) -> RejoinError:
        """Why there is no connection, and will be none by itself."""
        if self._refusal:
            return RejoinError(self._refusal)
        return Unavailable(f"the broker is away ({self._fault or self._client.last_error})")

    # Callbacks. One that raises would stop nats-py's read loop for ever, so none of them does.

    async def _on_error(self, fault: Exception) -> None:
        if isinstance(fault, nats.errors.SlowConsumerError):
            on_loss = self._losses.get(fault.sub)
            if on_loss is not None:
                on_loss()
            return
        if denial := DENIAL.search(str(fault)):
            self._on_denial(*denial.groups())
            return
        transport = self._client._transport  # noqa: SLF001
        if transport is not None and not self._client.is_connected:
            transport.close()  # type: ignore[no-untyped-call]  # of a failed handshake: else it is forgotten
            if isinstance(fault, ssl.SSLError):
                self._client._transport = None  # noqa: SLF001  # nats-py would wait for its end, for ever
        said, self._fault = self._fault, str(fault) or type(fault).__name__
        if REFUSAL in self._fault:
            self._refusal = REFUSED
        if why := tls.refusal(fault):
            self._refusal = f"the broker {why}"
        if self._refusal:
            self._over.set()
        if self._living and self._fault != said:  # ten times a second while the broker is away
            log.warning("broker_error", connection=self._name, error=self._fault)

    def _on_denial(self, verb: str, subject: str) -> None:
        """The answer that will not come need not be waited for."""
        for question in self._questions.waiting():
            if verb == "publish" and question.subject.lower() == subject.lower():  # nats-py says it in small
                subject = question.subject
                question.fail(
                    PermissionDenied(f"the broker does not allow {self._name} to publish {subject}")
                )
        log.error("broker_denied", connection=self._name, denied=verb, subject=subject)

    async def _on_disconnect(self) -> None:
        """What was asked here is not answered on another connection, nor is it said again there."""
        self._forget_unsent()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0)
        for question in self._questions.waiting():
            question.fail(ConnectionResetError())
        if self._living:
            log.warning("broker_disconnected", connection=self._name)

    async def _on_return(self) -> None:
        self._fault = ""
        log.info("broker_reconnected", connection=self._name)
        for callback in tuple(self._returns):
            callback()

    async def _on_close(self) -> None:
        self._over.set()

    async def watch(self) -> None:
        """Prove the connection alive, for ever: recycle one whose reader has died. Raises `RejoinError` once
        the server refuses our credentials, `Unavailable` if nats-py has given up for another reason.
        """
        while True:
            try:
                async with asyncio.timeout(LIVENESS_PERIOD_S):
                    await self._over.wait()
            except TimeoutError:
                pass
            else:
                raise self._end()
            if self._client.is_connected:
                try:
                    await self._ping(LIVENESS_TIMEOUT_S)
                except Unavailable:
                    log.warning("broker_connection_recycled", connection=self._name)
                    await self._client.force_reconnect()

    async def close(self) -> None:
        """Close at once; what is pending is lost, and nats-py must not try to send it: that raises."""
        self._living = False
        self._questions.close()
        self._forget_unsent()
        try:
            await self._client.close()
        except asyncio.CancelledError:
            # Not always meant for us: nats-py cancels its own reconnect and then awaits the same future.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise

    def _forget_unsent(self) -> None:
        self._client._pending.clear()  # noqa: SLF001
        self._client._pending_data_size = 0  # noqa: SLF001

    @property
    def version(self) -> str:
        """The server's."""
        return str(self._client._server_info.get("version", ""))  # noqa: SLF001

    @property
    def connected(self) -> bool:
        """Whether the socket is up at this moment."""
        return self._client.is_connected

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after every reconnect: messages may have been missed. Returns what ends that."""
        self._returns.add(callback)
        return lambda: self._returns.discard(callback)

    async def flush(self) -> None:
        """Until the server has seen everything sent so far."""
        await self._ping(ASK_TIMEOUT_S)

    async def _ping(self, timeout_s: float) -> None:
        pong = _Pong()
        async with self._wire(timeout_s):
            # Behind everything that waits to be sent. nats-py's own ping overtakes it, so that a subscription
            # would be taken for made that the server has not heard of.
            self._client._pongs.append(pong)  # noqa: SLF001
            await self._client._send_command(PING)  # noqa: SLF001
            await self._client._flush_pending()  # noqa: SLF001
            await pong

    async def send(self, subject: str, payload: bytes = b"", *, reply: str = "") -> None:
        """Publish without an answer. Raises `Invalid` if it is too large."""
        self._check(payload)
        self._questions.put(self._local(subject), payload, reply=reply)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = ASK_TIMEOUT_S,
    ) -> RawMessage:
        """One request, one reply. Raises `Invalid` if it is too large."""
        (reply,) = await self._ask(subject, payload, encode_headers(headers or {}), timeout_s)
        if reply.status == NOBODY:
            fault = nats.errors.NoRespondersError()
            raise _away(fault) from fault
        return reply

    async def _ask(
        self, subject: str, payload: bytes, headers: bytes, timeout_s: float, *, many: bool = False
    ) -> list[RawMessage]:
        self._check(payload, headers)
        try:
            return await self._questions.ask(self._local(subject), payload, headers, timeout_s, many=many)
        except (OSError, TimeoutError) as fault:
            raise _away(fault) from fault

    async def reach(self, subject: str, payload: bytes = b"") -> bool:
        """One request to whoever listens; whether somebody answered."""
        try:
            await self.request(subject, payload)
        except Unavailable as fault:
            if isinstance(fault.__cause__, nats.errors.NoRespondersError):
                return False
            raise
        return True

    def _local(self, subject: str) -> str:
        """JetStream's API by the name that it has in our account."""
        if subject.startswith(f"{subjects.API}."):
            return self._prefix + subject.removeprefix(subjects.API)
        return subject

    def _check(self, payload: bytes, headers: bytes = b"") -> None:
        self._must_be_there()
        if len(headers) + len(payload) > self._client.max_payload:  # or the server would close the connection
            raise Invalid(f"larger than the broker takes ({self._client.max_payload} bytes)")

    async def call_api(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A JetStream request: its answer as JSON. Raises `ApiError`."""
        reply = await self.request(subject, payload, headers=headers)
        error = _answer.decode(reply.data).error
        if error is None:
            return reply.data
        # 408, 503: no leader, or too busy. The broker is away for this question.
        if error.code in (408, 503) and error.err_code != STORE_REFUSED:
            raise Unavailable(f"the broker cannot answer now ({error.description})")
        raise ApiError(error.err_code, error.description)

    async def request_many(self, subject: str, payload: bytes) -> list[RawMessage]:
        """One request, many replies, the last of which has a status header."""
        return await self._ask(subject, payload, b"", ASK_TIMEOUT_S, many=True)

    async def subscribe(
        self, subject: str, on_message: Callable[[Msg], Awaitable[None]], on_loss: Callable[[], None]
    ) -> Callable[[], Awaitable[None]]:
        """Core subscription. `on_loss` is called when this process was too slow and messages were dropped.

        Returns what ends it.
        """
        async with self._wire(ASK_TIMEOUT_S):
            subscription = await self._client.subscribe(
                subject,
                cb=on_message,
                pending_msgs_limit=PENDING_MESSAGES_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
        self._losses[subscription] = on_loss

        async def end() -> None:
            self._losses.pop(subscription, None)
            await _end(subscription)

        return end

    async def listen(self, subject: str, on_message: Deliver) -> Callable[[], Awaitable[None]]:
        """Core subscription whose messages are handed over as they are read: none waits here, so none is
        dropped here, and all of the connection waits for `on_message`. Returns what ends it.
        """
        async with self._wire(ASK_TIMEOUT_S):
            return partial(_end, await self._client.listen(subject, on_message))

    def new_inbox(self) -> str:
        """A subject that only this connection listens to."""
        return self._client.new_inbox()


def _away(fault: Exception) -> Unavailable:
    return Unavailable(f"the broker does not answer ({type(fault).__name__})")


async def _end(subscription: Subscription) -> None:
    with suppress(nats.errors.Error, ValueError):  # the connection is gone, the subscription with it
        await subscription.unsubscribe()


class _Pong(asyncio.Future[bool]):
    """The answer to a ping, whether it is still waited for or not.

    nats-py's own `flush` dies of an answer that comes after a time-out or a cancellation, and its read loop
    with it: every reader of the connection would be deaf.
    """

    def set_result(self, result: bool) -> None:
        """It has come."""
        if not self.done():
            super().set_result(result)


@asynccontextmanager
async def connect(url: str, name: str) -> AsyncIterator[NatsConnection]:
    """A living connection to `nats://…` (see `rejoin_protocol.broker.broker_url`), as long as the
    context. The name's first word, up to a hyphen, is the role whose inboxes it listens to.

    Waits for a broker that is away, with back-off and a line in the log each time. Raises `Invalid` for a
    wrong URL, and `RejoinError`, then or later, if the broker refuses our credentials, or either side the
    other's certificate.
    """
    to = broker_url.parse(url)
    secure = tls.context(to) if to.tls else None

    def away(fault: Exception) -> bool:
        if isinstance(fault, Unavailable):
            log.warning("waiting_for_broker", connection=name, hosts=to.hosts, cause=str(fault))
        return isinstance(fault, Unavailable)

    async for attempt in stamina.retry_context(
        on=away, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0
    ):
        with attempt:
            broker = await _opened(to, secure, name)
    try:
        async with run_alongside(broker.watch()):
            yield broker
    finally:
        await broker.close()


async def _opened(to: BrokerUrl, secure: ssl.SSLContext | None, name: str) -> NatsConnection:
    broker = NatsConnection(name)
    try:
        await broker.open(to, secure)
    except BaseException:
        await broker.close()
        raise
    return broker
