"""The broker's doubles: the same contracts in plain dictionaries, for tests of what stands on them.

Nothing in them is ever away, and only waiting for a request waits. Several "processes" share one object.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from rejoin_adapters.jetstream.live_feed import LiveReader
from rejoin_adapters.jetstream.run_log import PAGE_RECORDS, READ_BYTES_MAX
from rejoin_adapters.jetstream.setup import ACK_WAIT_S
from rejoin_adapters.ports import ControlMessage, Interrupt, LogPage, Supersede
from rejoin_protocol.errors import Fenced
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.log import segment
from rejoin_protocol.log.record import Head, Record
from rejoin_protocol.run_request import AgentEntry, RunRequest


class MemoryRunLog:
    """`ports.RunLog`."""

    def __init__(self) -> None:
        self._owners: list[RunId | None] = []
        self._records: dict[RunId, list[Record]] = {}
        self._segments: dict[RunId, list[bytes]] = {}
        self._readers: dict[RunId, set[LiveReader]] = {}

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """See `ports.RunLog`."""
        last = await self.last(run)
        if last is not None and last.head == head:
            return last.seq
        if (last.seq if last is not None else 0) != head.prev:
            raise Fenced(f"run {run} has another writer")
        self._owners.append(run)
        record = Record(len(self._owners), head, payload)
        self._records.setdefault(run, []).append(record)
        for reader in self._readers.get(run, ()):
            reader.push(record)
        return record.seq

    async def read(self, run: RunId, *, after: int, records_max: int | None = None) -> LogPage:
        """See `ports.RunLog`."""
        stored = [record for record in self._records.get(run, ()) if record.seq > after]
        if records_max is None and stored:
            copies = segment.records_after(stored[0].seq, self._segments.get(run, ()))
            stored[1 : 1 + len(copies)] = copies
        page: list[Record] = []
        size_bytes = 0
        for record in stored:
            size_bytes += len(record.payload)
            if len(page) == (records_max or PAGE_RECORDS) or (page and size_bytes > READ_BYTES_MAX):
                return LogPage(page, more=True)
            page.append(record)
        return LogPage(page, more=False)

    async def add_segment(self, run: RunId, records: Sequence[Record]) -> None:
        """See `ports.RunLog`."""
        self._owners.append(None)
        self._segments.setdefault(run, []).append(segment.pack(records))

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        """See `ports.RunLog`."""
        return any(record.seq > after for record in self._records.get(run, ()))

    async def last(self, run: RunId) -> Record | None:
        """See `ports.RunLog`."""
        records = self._records.get(run)
        return records[-1] if records else None

    async def owner(self, sequence: int) -> RunId | None:
        """See `ports.RunLog`."""
        return self._owners[sequence - 1] if 0 < sequence <= len(self._owners) else None

    async def purge(self, run: RunId) -> None:
        """See `ports.RunLog`."""
        self._segments.pop(run, None)
        for record in self._records.pop(run, ()):
            self._owners[record.seq - 1] = None

    @asynccontextmanager
    async def follow(self, run: RunId) -> AsyncIterator[LiveReader]:
        """See `ports.RunLog`."""
        reader = LiveReader()
        readers = self._readers.setdefault(run, set())
        readers.add(reader)
        try:
            yield reader
        finally:
            readers.discard(reader)
            reader.close()


class MemoryDelivery:
    """`ports.Delivery`."""

    def __init__(self, requests: "MemoryRunQueue", request: RunRequest, delivered: int, behind: int) -> None:
        self._requests = requests
        self.request = request
        self.delivered = delivered
        self.behind = behind
        self.headers: Mapping[str, str] = {}
        self.age_s: float | None = None

    async def in_progress(self) -> None:
        """See `ports.Delivery`."""
        self._requests.put_off(self.request, self._requests.ack_wait_s)

    async def ack(self) -> None:
        """See `ports.Delivery`."""
        self._requests.remove(self.request)

    async def nak(self, delay_s: float = 0) -> None:
        """See `ports.Delivery`."""
        self._requests.put_off(self.request, delay_s)


class MemoryRunQueue:
    """`ports.RunQueue`. A request is due at once, and, while somebody has it, when their time is over."""

    def __init__(self, ack_wait_s: float = ACK_WAIT_S) -> None:
        self.ack_wait_s = ack_wait_s
        self._due: dict[RunRequest, float] = {}
        self._delivered: dict[RunRequest, int] = {}
        self._change = asyncio.Event()

    async def publish(self, request: RunRequest) -> None:
        """See `ports.RunQueue`."""
        if request not in self._due:
            self._due[request] = 0
            self._wake()

    @asynccontextmanager
    async def pull(self, agent: AgentName) -> AsyncIterator[Callable[[int], Awaitable[list[MemoryDelivery]]]]:
        """See `ports.RunQueue`."""

        async def following(count: int) -> list[MemoryDelivery]:
            if count == 1:
                return [await self._next(agent)]
            taken = (self._take(agent) for _ in range(count))
            return [delivery for delivery in taken if delivery is not None]

        yield following

    def put_off(self, request: RunRequest, delay_s: float) -> None:
        """Somebody else's in so many seconds, unless this is said again."""
        if request in self._due:
            self._due[request] = asyncio.get_running_loop().time() + delay_s
            self._wake()

    def remove(self, request: RunRequest) -> None:
        """Nobody's any more."""
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
        request, *behind = due
        self._due[request] = now + self.ack_wait_s
        self._delivered[request] = self._delivered.get(request, 0) + 1
        return MemoryDelivery(self, request, self._delivered[request], len(behind))


class MemoryRunControl:
    """`ports.RunControl`."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[RunId, ControlMessage], None]] = []

    async def interrupt(self, run: RunId) -> None:
        """See `ports.RunControl`."""
        self._say(run, Interrupt())

    async def supersede(self, run: RunId, attempt: int) -> None:
        """See `ports.RunControl`."""
        self._say(run, Supersede(attempt))

    def _say(self, run: RunId, word: ControlMessage) -> None:
        for on_word in tuple(self._listeners):
            on_word(run, word)

    @asynccontextmanager
    async def listen(self, on_word: Callable[[RunId, ControlMessage], None]) -> AsyncIterator[None]:
        """See `ports.RunControl`."""
        self._listeners.append(on_word)
        try:
            yield
        finally:
            self._listeners.remove(on_word)


class MemoryAgentRegistry:
    """`ports.AgentRegistry`."""

    def __init__(self) -> None:
        self._entries: dict[AgentName, AgentEntry] = {}

    async def announce(self, entry: AgentEntry) -> None:
        """See `ports.AgentRegistry`."""
        known = self._entries.get(entry.name)
        if known is None or not entry.yields_to(known):
            self._entries[entry.name] = entry

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """See `ports.AgentRegistry`."""
        return self._entries.get(agent)

    async def list(self) -> Sequence[AgentEntry]:
        """See `ports.AgentRegistry`."""
        return list(self._entries.values())
