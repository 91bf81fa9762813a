"""The queue of run requests: a JetStream work queue, from which no more is pulled than there is room for.

Owns the pull protocol (NATS ADR-13) on a core subscription: nats-py's `fetch` loses what arrives while it is
being cancelled, and raises two kinds of time-out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import msgspec
import structlog
from nats.aio.msg import Msg
from rejoin_protocol import run_request
from rejoin_protocol.broker import subjects
from rejoin_protocol.errors import RejoinError, Unavailable
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import RunRequest

from rejoin_adapters.jetstream import setup
from rejoin_adapters.jetstream.nats_connection import ApiError, NatsConnection
from rejoin_adapters.service import tracing

log = structlog.get_logger("rejoin.requests")

PULL_EXPIRES_S = 10.0
PULL_GRACE_S = 1.0
PULL_RETRY_S = 1.0
QUEUED_ALREADY = 10077
NOTHING_THERE = {"404", "408"}
"""The server's word about a pull that brings nothing now, or nothing more: nothing is wrong with it."""


class JetStreamDelivery:
    """The adapter of `Delivery`."""

    def __init__(self, broker: NatsConnection, message: Msg, request: RunRequest) -> None:
        self._broker = broker
        self._reply = message.reply
        self.request = request
        self.delivery_count = message.metadata.num_delivered
        self.pending_count = message.metadata.num_pending
        self.headers: Mapping[str, str] = message.headers or {}
        self._published_at = message.metadata.timestamp

    @property
    def age_s(self) -> float | None:
        """See `Delivery`."""
        first = self.delivery_count == 1
        return (datetime.now(UTC) - self._published_at).total_seconds() if first else None

    async def in_progress(self) -> None:
        """See `Delivery`."""
        await self._broker.send(self._reply, b"+WPI")

    async def ack(self) -> None:
        """See `Delivery`. Waits for the broker's word: a lost ack would repeat the run's last turn."""
        await self._broker.request(self._reply, b"+ACK")

    async def nak(self, delay_s: float = 0) -> None:
        """See `Delivery`."""
        delay_ns = int(delay_s * setup.SECOND_NS)
        await self._broker.send(self._reply, b'-NAK {"delay":%d}' % delay_ns if delay_ns else b"-NAK")


class JetStreamRunQueue:
    """The adapter of `RunQueue`."""

    def __init__(self, broker: NatsConnection, settings: setup.StreamSettings) -> None:
        self._broker = broker
        self._settings = settings

    async def publish(self, request: RunRequest) -> None:
        """See `RunQueue`."""
        subject = subjects.request(request.agent, request.run, request.turn)
        try:
            await self._broker.call_api(subject, run_request.encode(request), headers=tracing.trace_headers())
        except ApiError as fault:
            if fault.code != QUEUED_ALREADY:
                raise Unavailable(f"the broker refused a run request ({fault})") from fault

    @asynccontextmanager
    async def pull(
        self, agent: AgentName
    ) -> AsyncIterator[Callable[[int], Awaitable[Sequence[JetStreamDelivery]]]]:
        """See `RunQueue`."""
        pull = _Pull(self._broker, agent, self._settings)
        await pull.declare()
        end = await self._broker.subscribe(pull.inbox, pull.on_message, pull.on_return)
        off = self._broker.on_reconnect(pull.on_return)
        try:
            yield pull.next
        finally:
            off()
            await end()


class _PendingPull:
    """One pull: what it has brought so far, and the server's word that ends it if it does not bring all."""

    def __init__(self, count: int) -> None:
        self.messages: list[Msg] = []
        self.over: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        self._count = count

    def take(self, message: Msg) -> bool:
        """Whether it was still wanted."""
        if self.over.done():
            return False
        self.messages.append(message)
        if len(self.messages) == self._count:
            self.end(None)
        return True

    def end(self, word: Msg | None) -> None:
        """Nothing more comes."""
        if not self.over.done():
            self.over.set_result(word)


class _Pull:
    """Requests from one consumer, and never one more than is waited for."""

    def __init__(self, broker: NatsConnection, agent: AgentName, settings: setup.StreamSettings) -> None:
        self._inbox = broker.new_inbox()
        self._broker = broker
        self._agent = agent
        self._settings = settings
        self._subject = f"{subjects.API}.CONSUMER.MSG.NEXT.{subjects.REQUESTS}.{subjects.consumer(agent)}"
        self._wait: _PendingPull | None = None
        self._pulls = 0

    @property
    def inbox(self) -> str:
        return f"{self._inbox}.*"

    async def declare(self) -> None:
        await setup.declare_consumer(self._broker, self._agent, self._settings)

    async def on_message(self, message: Msg) -> None:
        wait = self._wait
        if _status(message):
            if wait is not None and message.subject.endswith(f".{self._pulls}"):  # not of an earlier pull
                wait.end(message)
        elif wait is None or not wait.take(message):
            await self._give_back(message)

    def on_return(self) -> None:
        if self._wait is not None:
            self._wait.end(None)  # the server has forgotten our pull: ask again

    async def next(self, count: int) -> list[JetStreamDelivery]:
        while True:
            messages = await self._pulled(count)
            deliveries = [one for message in messages if (one := await self._delivery(message)) is not None]
            if deliveries or count > 1:
                return deliveries

    async def _delivery(self, message: Msg) -> JetStreamDelivery | None:
        try:
            request = run_request.decode_request(message.data)
        except msgspec.DecodeError:
            log.exception("poison_request", subject=message.subject)
            await self._say(message, b"+TERM")
            return None
        return JetStreamDelivery(self._broker, message, request)

    async def _pulled(self, count: int) -> list[Msg]:
        """What one pull brings. The server's word about it, if it brings nothing, is heard here."""
        wait = self._wait = _PendingPull(count)
        self._pulls += 1
        wait_s = PULL_GRACE_S + (PULL_EXPIRES_S if count == 1 else 0)
        word: Msg | None = None
        taken = False
        try:
            try:
                await self._broker.send(self._subject, _ask(count), reply=f"{self._inbox}.{self._pulls}")
            except Unavailable:
                wait_s = PULL_RETRY_S  # or until the reconnect, whichever is first
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    word = await wait.over
            taken = True
        finally:
            self._wait = None
            if not taken:  # we were cancelled with them in our hands
                for message in wait.messages:
                    await self._give_back(message)
        if not wait.messages and word is not None and _status(word) not in NOTHING_THERE:
            await self._refused(word)
        return wait.messages

    async def _refused(self, message: Msg) -> None:
        """The consumer is gone, or its leader has changed. Not to be asked again at once."""
        said = (message.headers or {}).get(subjects.DESCRIPTION, "")
        why = said.partition("\n")[0]  # where nothing is said, nats-py takes the next header for it
        log.warning("pull_rejected", agent=self._agent, status=_status(message), why=why)
        await asyncio.sleep(PULL_RETRY_S)
        try:
            await self.declare()
        except RejoinError as fault:
            log.warning("consumer_not_declared", agent=self._agent, error=str(fault))

    async def _give_back(self, message: Msg) -> None:
        await self._say(message, b"-NAK")

    async def _say(self, message: Msg, word: bytes) -> None:
        try:
            await self._broker.send(message.reply, word)
        except Unavailable:
            log.warning("request_not_answered", subject=message.subject)  # its ack wait returns it


def _ask(count: int) -> bytes:
    """One is waited for; of several those are taken that are there."""
    if count == 1:
        return b'{"batch":1,"expires":%d}' % (PULL_EXPIRES_S * setup.SECOND_NS)
    return b'{"batch":%d,"no_wait":true}' % count


def _status(message: Msg) -> str | None:
    return (message.headers or {}).get(subjects.STATUS)
