"""The baseline `nats`: the reads and subscriptions of a scenario with nats-py alone."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg

from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import RunId

_PRODUCED_AT = re.compile(rb'"delta":"(\d{9,})"')
RECEIVE_TIMEOUT_S = 120.0


class NatsBaseline:
    """A connection. `received`: the number of messages. `latencies_s`: the age of the times in them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.received = 0
        self.latencies_s: list[float] = []
        self._arrival = asyncio.Event()
        self._queued = bytearray()

    async def _on_message(self, message: Msg) -> None:
        self.received += 1
        now_ns = time.monotonic_ns()
        self.latencies_s += [
            (now_ns - int(produced_ns)) / 1e9 for produced_ns in _PRODUCED_AT.findall(message.data)
        ]
        self._arrival.set()

    async def subscribe(self, runs: Iterable[RunId]) -> None:
        """Receive what is appended to these runs from now on."""
        for run in runs:
            await self._client.subscribe(subjects.DEFAULT.live(run), cb=self._on_message)
        await self._client.flush()

    async def wait_for(self, count: int) -> None:
        """Wait until `count` messages have been received."""
        async with asyncio.timeout(RECEIVE_TIMEOUT_S):
            while self.received < count:
                self._arrival.clear()
                await self._arrival.wait()

    async def read(self, run: RunId, after: int = 0, batch: int = 256) -> int:
        """Read a run's log after a sequence number, in batches. Returns the number of messages."""
        inbox, count, more = self._client.new_inbox(), 0, True
        queue: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._client.subscribe(inbox, cb=queue.put)
        while more:
            request = {
                "seq": after + 1,
                "batch": batch,
                "max_bytes": 256 * 1024,
                "next_by_subj": subjects.DEFAULT.log(run),
            }
            await self._client.publish(
                f"$JS.API.DIRECT.GET.{subjects.LOG}", msgspec.json.encode(request), reply=inbox
            )
            while subjects.STATUS_HEADER not in (fields := (await queue.get()).headers or {}):
                count += 1
                after = int(fields[subjects.SEQUENCE])
            more = int(fields.get(subjects.PENDING, "0")) > 0
        await subscription.unsubscribe()
        return count

    async def publish(self, run: RunId, payload: bytes) -> None:
        """Append without fencing, and wait for the acknowledgement."""
        await self._client.request(subjects.DEFAULT.log(run), payload, timeout=30)

    async def send(self, run: RunId, payload: bytes, head: str) -> None:
        """Append without waiting for the acknowledgement."""
        await self._client.publish(subjects.DEFAULT.log(run), payload, headers={subjects.BATCH: head})

    def queue_unstored(self, run: RunId, payload: bytes, head: str, sequence: int) -> None:
        """Queue the message that NATS would republish after an append; `flush` sends it. Nothing is stored.

        With `publish`, the writer would need more CPU time than the gateway that it has to saturate.
        """
        headers = (
            f"NATS/1.0\r\n{subjects.BATCH}: {head}\r\nNats-Stream: {subjects.LOG}\r\n"
            f"{subjects.SUBJECT}: {subjects.DEFAULT.log(run)}\r\n{subjects.SEQUENCE}: {sequence}\r\n"
            f"Nats-Last-Sequence: {sequence - 1}\r\n{subjects.TIME}: 2026-01-01T00:00:00Z\r\n\r\n"
        ).encode()
        command = (
            f"HPUB {subjects.DEFAULT.live(run)} {len(headers)} {len(headers) + len(payload)}\r\n".encode()
        )
        self._queued += command + headers + payload + b"\r\n"

    async def flush(self) -> None:
        """Send the queued messages, and wait until NATS has received everything."""
        queued, self._queued = self._queued, bytearray()
        if self._client._transport is not None:  # noqa: SLF001
            self._client._transport.write(bytes(queued))  # noqa: SLF001
        await self._client.flush(60)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[NatsBaseline]:
    """A connection that is open inside the context."""
    client = await nats.connect(
        url, inbox_prefix=subjects.DEFAULT.inbox("gateway"), pending_size=64 * 1024 * 1024
    )
    try:
        yield NatsBaseline(client)
    finally:
        await client.close()
