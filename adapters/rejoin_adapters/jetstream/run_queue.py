"""`RunQueue` as a JetStream work queue; pulls exactly as many requests as the runner has room for.

Implements the pull protocol (NATS ADR-13) on a core subscription: nats-py's `fetch` loses messages that
arrive while it is being cancelled, and raises two different timeout errors.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import msgspec
import structlog
from nats.aio.msg import Msg

from rejoin_adapters.jetstream import setup
from rejoin_adapters.jetstream.nats_connection import STORE_REFUSED, ApiError, NatsConnection
from rejoin_adapters.process import tracing
from rejoin_protocol import run_request
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import RejoinError, Unavailable
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import RunRequest

log = structlog.get_logger("rejoin.requests")

PULL_EXPIRES_S = 10.0
"""The server ends a pull request without messages after this time."""
PULL_GRACE_S = 1.0
"""How long to wait for the server's status after that."""
PULL_RETRY_S = 1.0
"""Pause after a pull request that could not be sent or was rejected."""
QUEUED_ALREADY = STORE_REFUSED
"""The stream holds at most one message for each turn of a run."""
ACK = b"+ACK"
NO_MESSAGES = {"404", "408"}
"""Status of a pull that brings nothing now, or nothing more: not an error."""


class JetStreamDelivery:
    """The adapter of `Delivery`."""

    def __init__(self, connection: NatsConnection, message: Msg, request: RunRequest) -> None:
        self._connection = connection
        self.receipt = message.reply
        self.request = request
        self.delivery_count = message.metadata.num_delivered
        self.pending_count = message.metadata.num_pending
        self.headers: Mapping[str, str] = message.headers or {}
        self._published_at = message.metadata.timestamp

    @property
    def age_s(self) -> float | None:
        """See `Delivery`."""
        is_first = self.delivery_count == 1
        return (datetime.now(UTC) - self._published_at).total_seconds() if is_first else None

    async def ack(self) -> None:
        """See `Delivery`. Does not wait for the broker."""
        await self._connection.send(self.receipt, ACK)

    async def nak(self, delay_s: float = 0) -> None:
        """See `Delivery`."""
        delay_ns = int(delay_s * setup.SECOND_NS)
        await self._connection.send(self.receipt, b'-NAK {"delay":%d}' % delay_ns if delay_ns else b"-NAK")


class JetStreamHeartbeatLink:
    """The adapter of `HeartbeatLink`."""

    def __init__(self, connection: NatsConnection) -> None:
        self._connection = connection

    @property
    def is_connected(self) -> bool:
        """See `HeartbeatLink`."""
        return self._connection.connected

    async def keep(self, receipt: str) -> None:
        """See `HeartbeatLink`."""
        await self._connection.send(receipt, b"+WPI")

    async def give_up(self, receipt: str) -> None:
        """See `HeartbeatLink`."""
        await self._connection.send(receipt, b"-NAK")


class JetStreamRunQueue:
    """The adapter of `RunQueue`."""

    links_are_threadsafe = True

    def __init__(self, connection: NatsConnection, settings: setup.StreamSettings) -> None:
        self.shards = connection.names.shards
        self._connection = connection
        self._settings = settings
        self._pullers: set[_Puller] = set()

    @asynccontextmanager
    async def open_link(self) -> AsyncIterator[JetStreamHeartbeatLink]:
        """See `RunQueue`."""
        async with self._connection.open_another("heartbeat") as connection:
            yield JetStreamHeartbeatLink(connection)

    def discard_late_arrivals(self) -> None:
        """See `RunQueue`."""
        for puller in self._pullers:
            puller.discard_late_arrivals()

    async def publish(self, request: RunRequest) -> None:
        """See `RunQueue`."""
        subject = self._connection.names.request(request.agent, request.run, request.turn)
        headers = tracing.request_headers(request.trace)
        try:
            await self._connection.call_api(subject, run_request.encode(request), headers=headers)
        except ApiError as error:
            if error.code != QUEUED_ALREADY:
                raise Unavailable(f"the broker refused a run request ({error})") from error

    @asynccontextmanager
    async def pull(
        self, agent: AgentName, shard: int = 0
    ) -> AsyncIterator[Callable[[int], Awaitable[Sequence[JetStreamDelivery]]]]:
        """See `RunQueue`."""
        puller = _Puller(self._connection, agent, self._settings, shard)
        await puller.declare_consumer()
        unsubscribe = await self._connection.subscribe(puller.inbox, puller.on_message, puller.on_reconnect)
        remove_callback = self._connection.on_reconnect(puller.on_reconnect)
        self._pullers.add(puller)
        try:
            yield puller.next
        finally:
            self._pullers.discard(puller)
            remove_callback()
            await unsubscribe()


class _PendingPull:
    """One pull request: the messages that it has brought, and the status message that ends it early."""

    def __init__(self, count: int) -> None:
        self.messages: list[Msg] = []
        self.ended: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        self._count = count

    def accept(self, message: Msg) -> bool:
        """Add a message. False if the pull has ended: the message must be returned to the queue."""
        if self.ended.done():
            return False
        self.messages.append(message)
        if len(self.messages) == self._count:
            self.end(None)
        return True

    def end(self, status: Msg | None) -> None:
        """No further messages will come."""
        if not self.ended.done():
            self.ended.set_result(status)


class _Puller:
    """Pulls from a shard's consumer of one agent; has at most one pull request pending."""

    def __init__(
        self, connection: NatsConnection, agent: AgentName, settings: setup.StreamSettings, shard: int
    ) -> None:
        self._inbox = connection.new_inbox()
        self._connection = connection
        self._agent = agent
        self._shard = shard
        self._settings = settings
        self._subject = (
            f"{subjects.JETSTREAM_API}.CONSUMER.MSG.NEXT.{connection.names.requests_stream(shard)}"
            f".{subjects.consumer(agent)}"
        )
        self._pending: _PendingPull | None = None
        self._pull_count = 0
        self._discards = False
        """Drop what arrives, until the server has answered that nothing earlier is on its way."""

    @property
    def inbox(self) -> str:
        return f"{self._inbox}.*"

    async def declare_consumer(self) -> None:
        await setup.declare_consumer(self._connection, self._agent, self._settings, self._shard)

    def discard_late_arrivals(self) -> None:
        self._discards = True
        self.on_reconnect()

    async def on_message(self, message: Msg) -> None:
        pending = self._pending
        if _status(message):
            # The status of an earlier pull must not end this one.
            if pending is not None and message.subject.endswith(f".{self._pull_count}"):
                pending.end(message)
        elif self._discards:
            log.info("late_request_dropped", subject=message.subject)
        elif pending is None or not pending.accept(message):
            await self._nak(message)

    def on_reconnect(self) -> None:
        if self._pending is not None:
            self._pending.end(None)  # the server has forgotten the pull request: `next` sends another

    async def next(self, count: int) -> list[JetStreamDelivery]:
        while True:
            messages = await self._pull(count)
            decoded = [await self._decode_request(message) for message in messages]
            deliveries = [delivery for delivery in decoded if delivery is not None]
            if deliveries or count > 1:
                return deliveries

    async def _decode_request(self, message: Msg) -> JetStreamDelivery | None:
        try:
            request = run_request.decode_request(message.data)
        except msgspec.DecodeError:
            log.exception("poison_request", subject=message.subject)
            await self._acknowledge(message, b"+TERM")
            return None
        return JetStreamDelivery(self._connection, message, request)

    async def _pull(self, count: int) -> list[Msg]:
        """The messages that one pull request brings."""
        if self._discards:
            with suppress(Unavailable):  # the old connection's messages are gone with it
                await self._connection.flush()
            self._discards = False
        pending = self._pending = _PendingPull(count)
        self._pull_count += 1
        wait_s = PULL_GRACE_S + (PULL_EXPIRES_S if count == 1 else 0)
        status: Msg | None = None
        completed = False
        try:
            try:
                reply = f"{self._inbox}.{self._pull_count}"
                await self._connection.send(self._subject, _pull_request(count), reply=reply)
            except Unavailable:
                wait_s = PULL_RETRY_S  # or until the reconnect, whichever is first
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    status = await pending.ended
            completed = True
        finally:
            self._pending = None
            if not completed:  # cancelled: the messages that have arrived return to the queue
                for message in pending.messages:
                    await self._nak(message)
        if not pending.messages and status is not None and _status(status) not in NO_MESSAGES:
            await self._recover(status)
        return pending.messages

    async def _recover(self, status: Msg) -> None:
        """The consumer does not exist, or its leader has changed. Pauses, and declares the consumer again."""
        description = (status.headers or {}).get(subjects.DESCRIPTION, "")
        reason = description.partition("\n")[0]  # if it is empty, nats-py puts the next header there
        log.warning("pull_rejected", agent=self._agent, status=_status(status), reason=reason)
        await asyncio.sleep(PULL_RETRY_S)
        try:
            await self.declare_consumer()
        except RejoinError as error:
            log.warning("consumer_not_declared", agent=self._agent, error=str(error))

    async def _nak(self, message: Msg) -> None:
        await self._acknowledge(message, b"-NAK")

    async def _acknowledge(self, message: Msg, answer: bytes) -> None:
        try:
            await self._connection.send(message.reply, answer)
        except Unavailable:
            log.warning("request_not_answered", subject=message.subject)  # the ack wait redelivers it


def _pull_request(count: int) -> bytes:
    """Waits for one message; takes several only if they are queued already."""
    if count == 1:
        return b'{"batch":1,"expires":%d}' % (PULL_EXPIRES_S * setup.SECOND_NS)
    return b'{"batch":%d,"no_wait":true}' % count


def _status(message: Msg) -> str | None:
    return (message.headers or {}).get(subjects.STATUS_HEADER)
