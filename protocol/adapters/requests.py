"""The queue of run requests: a JetStream work queue, pulled one request at a time.

Owns the pull protocol (NATS ADR-13) on a core subscription: nats-py's `fetch` loses what arrives while it is
being cancelled, and raises two kinds of time-out.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import structlog
from nats.aio.msg import Msg

from protocol import commands, names
from protocol.adapters import streams, tracing
from protocol.adapters.broker import ApiError, Broker
from protocol.commands import RunRequest
from protocol.errors import RejoinError, Unavailable
from protocol.ids import AgentName

log = structlog.get_logger("rejoin.requests")

PULL_EXPIRES_S = 10.0
PULL_GRACE_S = 1.0
PULL_RETRY_S = 1.0
QUEUED_ALREADY = 10077
EXPIRED = "408"


class JetStreamDelivery:
    """`ports.Delivery`."""

    def __init__(self, broker: Broker, message: Msg, request: RunRequest) -> None:
        self._broker = broker
        self._reply = message.reply
        self.request = request
        self.delivered = message.metadata.num_delivered
        self.headers: Mapping[str, str] = message.headers or {}
        self._published_at = message.metadata.timestamp

    @property
    def age_s(self) -> float | None:
        """See `ports.Delivery`."""
        first = self.delivered == 1
        return (datetime.now(UTC) - self._published_at).total_seconds() if first else None

    async def in_progress(self) -> None:
        """See `ports.Delivery`."""
        await self._broker.send(self._reply, b"+WPI")

    async def ack(self) -> None:
        """See `ports.Delivery`. Waits for the broker's word: a lost ack would repeat the run's last turn."""
        await self._broker.ask(self._reply, b"+ACK")

    async def nak(self, delay_s: float = 0) -> None:
        """See `ports.Delivery`."""
        delay_ns = int(delay_s * streams.SECOND_NS)
        await self._broker.send(self._reply, b'-NAK {"delay":%d}' % delay_ns if delay_ns else b"-NAK")


class JetStreamRequests:
    """`ports.Requests`."""

    def __init__(self, broker: Broker, settings: streams.Settings) -> None:
        self._broker = broker
        self._settings = settings

    async def publish(self, request: RunRequest) -> None:
        """See `ports.Requests`."""
        subject = names.request(request.agent, request.run, request.turn)
        try:
            await self._broker.call(subject, commands.encode(request), headers=tracing.carried())
        except ApiError as fault:
            if fault.code != QUEUED_ALREADY:
                raise Unavailable(f"the broker refused a run request ({fault})") from fault

    @asynccontextmanager
    async def pull(self, agent: AgentName) -> AsyncIterator[Callable[[], Awaitable[JetStreamDelivery]]]:
        """See `ports.Requests`."""
        pull = _Pull(self._broker, agent, self._settings)
        await pull.declare()
        end = await self._broker.subscribe(pull.inbox, pull.on_message, pull.on_return)
        off = self._broker.on_return(pull.on_return)
        try:
            yield pull.next
        finally:
            off()
            await end()


class _Pull:
    """One request at a time from one consumer, and never one more than is waited for."""

    def __init__(self, broker: Broker, agent: AgentName, settings: streams.Settings) -> None:
        self._inbox = broker.new_inbox()
        self._broker = broker
        self._agent = agent
        self._settings = settings
        self._subject = f"$JS.API.CONSUMER.MSG.NEXT.{names.REQUESTS}.{names.consumer(agent)}"
        self._expires = msgspec.json.encode({"batch": 1, "expires": int(PULL_EXPIRES_S * streams.SECOND_NS)})
        self._arrival: asyncio.Future[Msg | None] | None = None
        self._pulls = 0

    @property
    def inbox(self) -> str:
        return f"{self._inbox}.*"

    async def declare(self) -> None:
        await streams.declare_consumer(self._broker, self._agent, self._settings)

    async def on_message(self, message: Msg) -> None:
        if _status(message):
            if message.subject.endswith(f".{self._pulls}"):  # not the late word about an earlier pull
                self._resolve(message)
        elif not self._resolve(message):
            await self._give_back(message)

    def on_return(self) -> None:
        self._resolve(None)  # the server has forgotten our pull: ask again

    def _resolve(self, message: Msg | None) -> bool:
        arrival = self._arrival
        if arrival is None or arrival.done():
            return False
        arrival.set_result(message)
        return True

    async def next(self) -> JetStreamDelivery:
        while True:
            message = await self._next()
            try:
                request = commands.decode_request(message.data)
            except msgspec.DecodeError:
                log.exception("poison_request", subject=message.subject)
                await self._say(message, b"+TERM")
            else:
                return JetStreamDelivery(self._broker, message, request)

    async def _next(self) -> Msg:
        while True:
            message = await self._pulled()
            if message is None:
                continue
            status = _status(message)
            if status is None:
                return message
            if status != EXPIRED:
                await self._refused(message)

    async def _pulled(self) -> Msg | None:
        """What one pull brings: a request, or the server's word about it, or nothing."""
        arrival: asyncio.Future[Msg | None] = asyncio.get_running_loop().create_future()
        self._arrival = arrival
        self._pulls += 1
        wait_s = PULL_EXPIRES_S + PULL_GRACE_S
        taken = False
        try:
            try:
                await self._broker.send(self._subject, self._expires, reply=f"{self._inbox}.{self._pulls}")
            except Unavailable:
                wait_s = PULL_RETRY_S  # or until the reconnect, whichever is first
            async with asyncio.timeout(wait_s):
                message = await arrival
            taken = True
        except TimeoutError:
            return None
        else:
            return message
        finally:
            self._arrival = None
            if not taken and arrival.done() and not arrival.cancelled():
                await self._give_back(arrival.result())  # we were cancelled with it in our hands

    async def _refused(self, message: Msg) -> None:
        """The consumer is gone, or its leader has changed. Not to be asked again at once."""
        why = (message.headers or {}).get(names.DESCRIPTION)
        log.warning("pull_refused", agent=self._agent, status=_status(message), why=why)
        await asyncio.sleep(PULL_RETRY_S)
        try:
            await self.declare()
        except RejoinError as fault:
            log.warning("consumer_not_declared", agent=self._agent, error=str(fault))

    async def _give_back(self, message: Msg | None) -> None:
        if message is not None and _status(message) is None:
            await self._say(message, b"-NAK")

    async def _say(self, message: Msg, word: bytes) -> None:
        try:
            await self._broker.send(message.reply, word)
        except Unavailable:
            log.warning("request_not_answered", subject=message.subject)  # its ack wait returns it


def _status(message: Msg) -> str | None:
    return (message.headers or {}).get(names.STATUS)
