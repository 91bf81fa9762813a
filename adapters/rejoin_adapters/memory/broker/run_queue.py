"""`RunQueue` in memory. All gateways and runners of a test share one object."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

import msgspec

from rejoin_adapters.jetstream.setup import ACK_WAIT_S
from rejoin_protocol import run_request
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import RunRequest


class MemoryDelivery:
    """`Delivery` in memory."""

    def __init__(
        self, queue: "MemoryRunQueue", request: RunRequest, delivery_count: int, pending_count: int
    ) -> None:
        self._queue = queue
        self.request = request
        self.delivery_count = delivery_count
        self.pending_count = pending_count
        self.headers: Mapping[str, str] = {}
        self.age_s: float | None = None

    @property
    def receipt(self) -> str:
        """See `Delivery`."""
        return run_request.encode(self.request).decode()

    async def ack(self) -> None:
        """See `Delivery`."""
        self._queue.remove(self.request)

    async def nak(self, delay_s: float = 0) -> None:
        """See `Delivery`."""
        self._queue.deliver_after(self.request, delay_s)


class MemoryHeartbeatLink:
    """`HeartbeatLink` in memory."""

    is_connected = True

    def __init__(self, queue: "MemoryRunQueue") -> None:
        self._queue = queue

    async def keep(self, receipt: str) -> None:
        """See `HeartbeatLink`."""
        self._queue.deliver_after(run_request.decode_request(receipt.encode()), self._queue.ack_wait_s)

    async def give_up(self, receipt: str) -> None:
        """See `HeartbeatLink`."""
        self._queue.deliver_after(run_request.decode_request(receipt.encode()), 0)


class MemoryRunQueue:
    """`RunQueue` in memory. A request is due at once, and again when the ack wait of its delivery is
    over.
    """

    shards = 1
    links_are_threadsafe = False

    def __init__(self, ack_wait_s: float = ACK_WAIT_S) -> None:
        self.ack_wait_s = ack_wait_s
        self._due: dict[RunRequest, float] = {}
        self._delivered: dict[RunRequest, int] = {}
        self._change = asyncio.Event()

    @asynccontextmanager
    async def open_link(self) -> AsyncIterator[MemoryHeartbeatLink]:
        """See `RunQueue`."""
        yield MemoryHeartbeatLink(self)

    def discard_late_arrivals(self) -> None:
        """See `RunQueue`. Nothing arrives late here: a request is taken when it is due."""

    async def publish(self, request: RunRequest) -> None:
        """See `RunQueue`."""
        request = msgspec.structs.replace(request, trace=None)  # nothing here crosses a process
        if request not in self._due:
            self._due[request] = 0
            self._wake()

    @asynccontextmanager
    async def pull(
        self, agent: AgentName, shard: int = 0
    ) -> AsyncIterator[Callable[[int], Awaitable[list[MemoryDelivery]]]]:
        """See `RunQueue`."""
        del shard

        async def next_requests(count: int) -> list[MemoryDelivery]:
            if count == 1:
                return [await self._next(agent)]
            taken = (self._take(agent) for _ in range(count))
            return [delivery for delivery in taken if delivery is not None]

        yield next_requests

    def deliver_after(self, request: RunRequest, delay_s: float) -> None:
        """Deliver the request again after `delay_s`. A later call replaces the delay."""
        if request in self._due:
            self._due[request] = asyncio.get_running_loop().time() + delay_s
            self._wake()

    def remove(self, request: RunRequest) -> None:
        """Delete the request."""
        self._due.pop(request, None)
        self._delivered.pop(request, None)

    def _wake(self) -> None:
        self._change.set()
        self._change = asyncio.Event()

    async def _next(self, agent: AgentName) -> MemoryDelivery:
        while True:
            if (delivery := self._take(agent)) is not None:
                return delivery
            times = (due for request, due in self._due.items() if request.agent == agent)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(times, default=None)):
                    await self._change.wait()

    def _take(self, agent: AgentName) -> MemoryDelivery | None:
        now = asyncio.get_running_loop().time()
        due = [request for request, at in self._due.items() if request.agent == agent and at <= now]
        if not due:
            return None
        request, *others = due
        self._due[request] = now + self.ack_wait_s
        self._delivered[request] = self._delivered.get(request, 0) + 1
        pending_count = sum(other not in self._delivered for other in others)
        return MemoryDelivery(self, request, self._delivered[request], pending_count)
