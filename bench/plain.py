"""The baseline `nats`: what a scenario asks of the broker, by nats-py alone, and thrown away."""

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

_MADE = re.compile(rb'"delta":"(\d{9,})"')
PATIENCE_S = 120.0


class Plain:
    """A connection. `heard` are the messages that came, `latencies_s` the age of the times in them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.heard = 0
        self.latencies_s: list[float] = []
        self._news = asyncio.Event()
        self._feigned = bytearray()

    async def _on_message(self, message: Msg) -> None:
        self.heard += 1
        now_ns = time.monotonic_ns()
        self.latencies_s += [(now_ns - int(made)) / 1e9 for made in _MADE.findall(message.data)]
        self._news.set()

    async def follow(self, runs: Iterable[RunId]) -> None:
        """What is appended to these runs, from here on."""
        for run in runs:
            await self._client.subscribe(subjects.live(run), cb=self._on_message)
        await self._client.flush()

    async def until(self, heard: int) -> None:
        """Until so many messages have come."""
        async with asyncio.timeout(PATIENCE_S):
            while self.heard < heard:
                self._news.clear()
                await self._news.wait()

    async def read(self, run: RunId, after: int = 0, batch: int = 256) -> int:
        """A run's log from a sequence on, in batches; how many messages."""
        inbox, count, more = self._client.new_inbox(), 0, True
        queue: asyncio.Queue[Msg] = asyncio.Queue()
        subscription = await self._client.subscribe(inbox, cb=queue.put)
        while more:
            ask = {
                "seq": after + 1,
                "batch": batch,
                "max_bytes": 256 * 1024,
                "next_by_subj": subjects.log(run),
            }
            await self._client.publish(
                f"$JS.API.DIRECT.GET.{subjects.LOG}", msgspec.json.encode(ask), reply=inbox
            )
            while subjects.STATUS not in (fields := (await queue.get()).headers or {}):
                count += 1
                after = int(fields[subjects.SEQUENCE])
            more = int(fields.get(subjects.PENDING, "0")) > 0
        await subscription.unsubscribe()
        return count

    async def publish(self, run: RunId, payload: bytes) -> None:
        """Append without a fence, and wait for the acknowledgement."""
        await self._client.request(subjects.log(run), payload, timeout=30)

    async def send(self, run: RunId, payload: bytes, head: str) -> None:
        """Append without waiting."""
        await self._client.publish(subjects.log(run), payload, headers={subjects.BATCH: head})

    def feign(self, run: RunId, payload: bytes, head: str, sequence: int) -> None:
        """What the broker republishes of an append, without the append. It leaves with the next `flush`: by
        `publish`, a writer would need more of the machine than the gateway that it is to saturate.
        """
        headers = (
            f"NATS/1.0\r\n{subjects.BATCH}: {head}\r\nNats-Stream: {subjects.LOG}\r\n"
            f"{subjects.SUBJECT}: {subjects.log(run)}\r\n{subjects.SEQUENCE}: {sequence}\r\n"
            f"Nats-Last-Sequence: {sequence - 1}\r\n{subjects.TIME}: 2026-01-01T00:00:00Z\r\n\r\n"
        ).encode()
        command = f"HPUB {subjects.live(run)} {len(headers)} {len(headers) + len(payload)}\r\n".encode()
        self._feigned += command + headers + payload + b"\r\n"

    async def flush(self) -> None:
        """Until the broker has it all."""
        feigned, self._feigned = self._feigned, bytearray()
        if self._client._transport is not None:  # noqa: SLF001
            self._client._transport.write(bytes(feigned))  # noqa: SLF001
        await self._client.flush(60)


@asynccontextmanager
async def connect(url: str) -> AsyncIterator[Plain]:
    """For as long as the context."""
    client = await nats.connect(url, inbox_prefix=subjects.inbox("gateway"), pending_size=64 * 1024 * 1024)
    try:
        yield Plain(client)
    finally:
        await client.close()
