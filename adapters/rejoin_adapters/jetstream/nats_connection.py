"""One NATS connection: options, errors, liveness, requests, subscriptions.

Every call to nats-py goes through this module, so the policy for an unreachable server is in one place
(`_mapping_errors`): every failure is `Unavailable`, and it is raised at once while the connection is down.
The module knows no stream and no subject of Rejoin. It calls `$JS.API` directly (NATS ADR-1, ADR-31) and not
through nats-py's JetStream layer, whose ordered consumers lose messages silently and whose futures leak.
"""

import asyncio
import base64
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

import msgspec
import nats.errors
import stamina
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from rejoin_adapters.jetstream.credential_file import has_credential_file, load_credentials
from rejoin_adapters.jetstream.nats_client import INTERNALS, Deliver, NatsClient, RawMessage
from rejoin_adapters.jetstream.request_mux import RequestMux
from rejoin_adapters.process import tls
from rejoin_adapters.process.background import run_alongside
from rejoin_protocol.broker import broker_url, subjects
from rejoin_protocol.broker.broker_url import BrokerUrl
from rejoin_protocol.errors import Invalid, RejoinError, Unavailable

log = structlog.get_logger("rejoin.broker")

REQUEST_TIMEOUT_S = 2.0
NATS_CONNECT_TIMEOUT_S = 5.0
LIVENESS_PERIOD_S = 5.0
LIVENESS_TIMEOUT_S = 3.0
RECONNECT_WAIT_S = 0.1
NO_RESPONDERS = "503"
"""Status of a reply: no subscriber has received the request."""
NOT_FOUND = 10037
"""JetStream's error code for a message that does not exist."""
STORE_REFUSED = 10077
"""JetStream's error code for a limit of the stream. Its HTTP-like code is 503, but a retry would not help."""
INSUFFICIENT_RESOURCES = 10023
"""JetStream's error code for a server that may store no more."""
AUTHORIZATION_VIOLATION = "Authorization Violation"
PERMISSIONS_VIOLATION = re.compile(
    r'permissions violation for (publish|subscription) to "(.*?)"', re.IGNORECASE
)
PENDING_MESSAGES_MAX = 8_192
PENDING_BYTES_MAX = 16 * 1024 * 1024
"""Limits of one `subscribe` in this process. Messages beyond them are dropped, and `on_loss` is called."""


class PermissionDenied(Unavailable):
    """The server's permissions do not allow the operation. A retry does not help."""


class StorageFull(Unavailable):
    """The broker's limit of storage is reached. It stores messages again once others have been deleted."""


class ApiError(RejoinError):
    """JetStream refused an API request. `code` is its `err_code`."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{detail} ({code})")
        self.code = code


class ApiErrorBody(msgspec.Struct, frozen=True):
    """The `error` of a JetStream API response."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _ApiResponse(msgspec.Struct, frozen=True):
    error: ApiErrorBody | None = None


class _MessageBody(msgspec.Struct, frozen=True):
    seq: int
    hdrs: str = ""
    data: str = ""


class _MessageResponse(msgspec.Struct, frozen=True):
    message: _MessageBody


_api_response = msgspec.json.Decoder(_ApiResponse)
_message_response = msgspec.json.Decoder(_MessageResponse)


class StoredMessage(msgspec.Struct, frozen=True):
    """A message of a stream."""

    sequence: int
    headers: Mapping[str, str]
    data: bytes


class NatsConnection:
    """A connection. Use `connect`, which also keeps it alive."""

    def __init__(self, name: str, url: BrokerUrl) -> None:
        self._url = url
        self.names = url.names
        # nats-py's WebSocket sends what its own flusher hands it, and nothing else.
        self._client = NatsClient(INTERNALS._replace(writes=False) if url.is_websocket else INTERNALS)
        self._name = name
        self._reconnect_callbacks: set[Callable[[], None]] = set()
        self._loss_callbacks: dict[Subscription, Callable[[], None]] = {}
        self._requests = RequestMux(self._client)
        self._timeouts: set[asyncio.Timeout] = set()
        self._closed = asyncio.Event()
        self._established = False
        self._last_error = ""
        self._refusal = ""
        self._jwt = ""

    async def open(self, ssl_context: ssl.SSLContext | None) -> None:
        """Connect once; nats-py reconnects by itself afterwards. Its own first connect retries forever and
        does not report why. Raises `Unavailable`, or `RejoinError` if either side refuses the other.
        """
        if missing := INTERNALS.missing:
            log.warning("nats_py_internals_missing", connection=self._name, missing=missing)
        url = self._url
        self._client.websocket = url.is_websocket
        self._client.tls_only = ssl_context is not None and not url.is_websocket
        role = self._name.partition("-")[0]
        try:
            async with asyncio.timeout(NATS_CONNECT_TIMEOUT_S):
                await self._client.connect(
                    list(url.servers),
                    name=self._name,
                    # Not in the URLs: servers that the cluster announces later have no credentials in theirs.
                    user=url.user,
                    password=url.password,
                    token=url.token,
                    signature_cb=self._sign if has_credential_file(url) else None,
                    user_jwt_cb=self._user_jwt if url.creds_file is not None else None,
                    tls=ssl_context,
                    inbox_prefix=url.names.inbox(role),
                    pending_size=0,  # a publish that failed must not be sent after a reconnect
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=RECONNECT_WAIT_S,  # type: ignore[arg-type]  # declared int; float works
                    ping_interval=10,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_reconnect,
                    closed_cb=self._on_close,
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self._last_error = self._last_error or type(error).__name__
            needs_certificate = self._client.server_info.get("tls_verify")
            if ssl_context is not None and url.certificate is None and needs_certificate:
                # The server closes the connection, often without sending the reason.
                self._refusal = f"the broker {tls.NO_CLIENT_CERTIFICATE}"
            raise self._connect_error() from (None if self._refusal else error)
        self._client.options |= {"allow_reconnect": True, "max_reconnect_attempts": -1}
        async with self._mapping_errors(REQUEST_TIMEOUT_S):
            await self._requests.open()
        self._established = True

    def _sign(self, nonce: str) -> bytes:
        """Callback of nats-py at each connect, before `_user_jwt`: the file is read once: both fit."""
        try:
            credentials = load_credentials(self._url)
        except Invalid as fault:
            raise PermissionError(str(fault)) from None  # an `OSError`: nats-py reports it and tries again
        self._jwt = credentials.jwt or ""
        self._client.name_user(credentials.public_key)
        return credentials.sign(nonce).encode()

    def _user_jwt(self) -> bytes:
        return self._jwt.encode()

    @asynccontextmanager
    async def _mapping_errors(self, timeout_s: float) -> AsyncIterator[None]:
        """Turn every failure of nats-py in the block into `Unavailable`, at the latest after `timeout_s`."""
        self._require_connected()
        try:
            async with asyncio.timeout(timeout_s) as timeout:
                self._timeouts.add(timeout)
                try:
                    yield
                finally:
                    self._timeouts.discard(timeout)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise _unavailable(error) from error

    def _require_connected(self) -> None:
        # While it reconnects, nats-py would keep some commands for later and leak the futures of others.
        if not self._client.is_connected:
            raise Unavailable("the broker cannot be reached")

    def _connect_error(self) -> RejoinError:
        """Why there is no connection, and nats-py will not establish one."""
        if self._refusal:
            return RejoinError(self._refusal)
        return Unavailable(f"the broker cannot be reached ({self._last_error or self._client.last_error})")

    # Callbacks of nats-py. An exception in one would end nats-py's read loop, so none may raise.

    async def _on_error(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            on_loss = self._loss_callbacks.get(error.sub)
            if on_loss is not None:
                on_loss()
            return
        if violation := PERMISSIONS_VIOLATION.search(str(error)):
            self._on_permissions_violation(*violation.groups())
            return
        self._client.close_failed_transport(forget=isinstance(error, ssl.SSLError))
        previous, self._last_error = self._last_error, str(error) or type(error).__name__
        if AUTHORIZATION_VIOLATION in self._last_error:
            file = self._url.creds_file or self._url.nkey_file
            self._refusal = f"the broker refuses our credentials{f' in {file}' if file else ''}"
        if reason := tls.describe_refusal(error):
            self._refusal = f"the broker {reason}"
        if self._refusal:
            self._closed.set()
        if self._established and self._last_error != previous:  # nats-py repeats it ten times a second
            log.warning("broker_error", connection=self._name, error=self._last_error)

    def _on_permissions_violation(self, verb: str, subject: str) -> None:
        """The server does not reply to a denied publish, so the request fails here instead of timing out."""
        for pending in self._requests.list_pending():
            if verb == "publish" and pending.subject.lower() == subject.lower():  # nats-py lowercases it
                subject = pending.subject
                pending.fail(PermissionDenied(f"the broker does not allow {self._name} to publish {subject}"))
        log.error("broker_denied", connection=self._name, denied=verb, subject=subject)

    async def _on_disconnect(self) -> None:
        """Fail everything that waits: its reply was for the lost connection, and it is not sent again."""
        self._client.discard_unsent()
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(0)
        for pending in self._requests.list_pending():
            pending.fail(ConnectionResetError())
        if self._established:
            log.warning("broker_disconnected", connection=self._name)

    async def _on_reconnect(self) -> None:
        self._last_error = ""
        log.info("broker_reconnected", connection=self._name)
        for callback in tuple(self._reconnect_callbacks):
            callback()

    async def _on_close(self) -> None:
        self._closed.set()

    async def watch(self) -> None:
        """Check the connection periodically, forever, and replace one whose reader has died. Raises
        `RejoinError` once the server refuses our credentials, `Unavailable` if nats-py gave up otherwise.
        """
        while True:
            try:
                async with asyncio.timeout(LIVENESS_PERIOD_S):
                    await self._closed.wait()
            except TimeoutError:
                pass
            else:
                raise self._connect_error()
            if self._client.is_connected:
                try:
                    await self._ping(LIVENESS_TIMEOUT_S)
                except Unavailable:
                    log.warning("broker_connection_recycled", connection=self._name)
                    await self._client.force_reconnect()

    async def close(self) -> None:
        """Close at once. Unsent messages are lost; nats-py would try to send them, which raises."""
        self._established = False
        self._requests.close()
        self._client.discard_unsent()
        try:
            await self._client.close()
        except asyncio.CancelledError:
            # nats-py cancels its reconnect task and awaits the cancelled future: this task was not cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise

    @property
    def version(self) -> str:
        """The server's version."""
        return str(self._client.server_info.get("version", ""))

    @property
    def connected(self) -> bool:
        """Whether the socket is connected now."""
        return self._client.is_connected

    def open_another(self, purpose: str) -> "AbstractAsyncContextManager[NatsConnection]":
        """Another connection to the same broker, in the event loop that enters the context: see `connect`."""
        return connect(self._url, f"{self._name.partition('-')[0]}-{purpose}")

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after every reconnect: messages may have been missed. Returns a function that
        removes it.
        """
        self._reconnect_callbacks.add(callback)
        return lambda: self._reconnect_callbacks.discard(callback)

    async def flush(self) -> None:
        """Wait until the server has processed everything sent so far."""
        await self._ping(REQUEST_TIMEOUT_S)

    async def _ping(self, timeout_s: float) -> None:
        async with self._mapping_errors(timeout_s):
            await self._client.ping()

    async def send(self, subject: str, payload: bytes = b"", *, reply: str = "") -> None:
        """Publish without waiting for a reply. Raises `Invalid` if the payload is too large."""
        self._require_connected()
        await self._publish_errors(self._requests.publish(self._resolve(subject), payload, reply=reply))

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> RawMessage:
        """One request, one reply. Raises `Invalid` if the payload is too large."""
        (reply,) = await self._request(subject, payload, headers or {}, timeout_s)
        if reply.status == NO_RESPONDERS:
            error = nats.errors.NoRespondersError()
            raise _unavailable(error) from error
        return reply

    async def request_many(self, subject: str, payload: bytes) -> list[RawMessage]:
        """One request, several replies; the last one has a status."""
        return await self._request(subject, payload, {}, REQUEST_TIMEOUT_S, many=True)

    async def _request(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str],
        timeout_s: float,
        *,
        many: bool = False,
    ) -> list[RawMessage]:
        self._require_connected()
        try:
            return await self._requests.request(
                self._resolve(subject), payload, headers, timeout_s, many=many
            )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise _unavailable(error) from error

    async def _publish_errors[T](self, work: Awaitable[T]) -> T:
        try:
            return await work
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise _unavailable(error) from error

    def _resolve(self, subject: str) -> str:
        """A JetStream API subject under the prefix that it has in our account; an entry of a bucket, too,
        if the prefix is that of a domain: between domains, leaf nodes carry `$KV` only so.
        """
        if subject.startswith(f"{subjects.JETSTREAM_API}."):
            return self._url.api + subject.removeprefix(subjects.JETSTREAM_API)
        if subject.startswith(subjects.KEY_VALUE) and self._url.is_in_domain:
            return f"{self._url.api}.{subject}"
        return subject

    async def call_api(
        self, subject: str, payload: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A JetStream API request; returns the response's JSON. Raises `ApiError`."""
        reply = await self.request(subject, payload, headers=headers)
        error = _api_response.decode(reply.data).error
        if error is None:
            return reply.data
        # 408 and 503: the stream has no leader at the moment, or the server is overloaded.
        if error.err_code == INSUFFICIENT_RESOURCES:
            raise StorageFull("the broker's storage is full")
        if error.code in (408, 503) and error.err_code != STORE_REFUSED:
            raise Unavailable(f"the broker cannot answer now ({error.description})")
        raise ApiError(error.err_code, error.description)

    async def last_message(self, stream: str, subject: str) -> StoredMessage | None:
        """The newest message of a subject, from the stream's leader: unlike a direct get, which a replica may
        answer, it is certain to be the newest. None if there is none.
        """
        query = msgspec.json.encode({"last_by_subj": subject})
        try:
            response = await self.call_api(f"{subjects.JETSTREAM_API}.STREAM.MSG.GET.{stream}", query)
        except ApiError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        message = _message_response.decode(response).message
        raw = RawMessage(subject.encode(), base64.b64decode(message.hdrs), base64.b64decode(message.data))
        return StoredMessage(message.seq, raw.headers, raw.data)

    async def subscribe(
        self, subject: str, on_message: Callable[[Msg], Awaitable[None]], on_loss: Callable[[], None]
    ) -> Callable[[], Awaitable[None]]:
        """Subscribe with a queue. `on_loss` is called when this process was too slow and messages were
        dropped.

        Returns a function that unsubscribes.
        """
        async with self._mapping_errors(REQUEST_TIMEOUT_S):
            subscription = await self._client.subscribe(
                subject,
                cb=on_message,
                pending_msgs_limit=PENDING_MESSAGES_MAX,
                pending_bytes_limit=PENDING_BYTES_MAX,
            )
        self._loss_callbacks[subscription] = on_loss

        async def unsubscribe() -> None:
            self._loss_callbacks.pop(subscription, None)
            await _unsubscribe(subscription)

        return unsubscribe

    async def listen(self, subject: str, on_message: Deliver) -> Callable[[], Awaitable[None]]:
        """Subscribe without a queue: `on_message` is called as messages are read. Nothing is dropped here,
        and the whole connection waits while `on_message` runs. Returns a function that unsubscribes.
        """
        async with self._mapping_errors(REQUEST_TIMEOUT_S):
            return partial(_unsubscribe, await self._client.listen(subject, on_message))

    def new_inbox(self) -> str:
        """A subject that only this connection subscribes to."""
        return self._client.new_inbox()


def _unavailable(error: Exception) -> Unavailable:
    return Unavailable(f"the broker does not answer ({type(error).__name__})")


async def _unsubscribe(subscription: Subscription) -> None:
    with suppress(nats.errors.Error, ValueError):  # the subscription ended with its connection
        await subscription.unsubscribe()


@asynccontextmanager
async def connect(broker: str | BrokerUrl, name: str) -> AsyncIterator[NatsConnection]:
    """A connection to a broker, or to `nats://…` (see `rejoin_protocol.broker.broker_url`), kept alive
    during the context. The part of `name` before the first hyphen is the role, which determines the inbox
    prefix.

    Waits for an unreachable server, with back-off and a log line for each attempt. Raises `Invalid` for an
    invalid URL or credentials file, and `RejoinError`, then or later, if the server refuses our
    credentials, or either side the other's certificate. A file that is wrong later is tried again at each
    reconnect.
    """
    parsed = broker_url.parse(broker) if isinstance(broker, str) else broker
    if has_credential_file(parsed):
        if not INTERNALS.credentials:
            raise RejoinError("this release of nats-py cannot use credential files: install another one")
        load_credentials(parsed)
    ssl_context = tls.build_ssl_context(parsed) if parsed.tls else None
    if ssl_context is not None and not INTERNALS.tls_check and not parsed.is_websocket:
        raise RejoinError("with this release of nats-py, TLS cannot be enforced: install another one")

    def is_unreachable(error: Exception) -> bool:
        if isinstance(error, Unavailable):
            log.warning("waiting_for_broker", connection=name, hosts=parsed.hosts, cause=str(error))
        return isinstance(error, Unavailable)

    async for attempt in stamina.retry_context(
        on=is_unreachable, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0
    ):
        with attempt:
            connection = await _open(parsed, ssl_context, name)
    try:
        async with run_alongside(connection.watch()):
            yield connection
    finally:
        await connection.close()


async def _open(broker: BrokerUrl, ssl_context: ssl.SSLContext | None, name: str) -> NatsConnection:
    connection = NatsConnection(name, broker)
    try:
        await connection.open(ssl_context)
    except BaseException:
        await connection.close()
        raise
    return connection
