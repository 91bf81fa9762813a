"""The broker's doubles: the same contracts in plain dictionaries, for tests of what stands on them.

Nothing in them is ever away, and only waiting for a request waits. Several "processes" share one object.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from protocol.adapters.follow import Reader
from protocol.adapters.log import READ_BYTES_MAX
from protocol.adapters.ports import Interrupt, Page, Supersede, Word
from protocol.adapters.streams import ACK_WAIT_S
from protocol.commands import AgentEntry, RunRequest
from protocol.errors import Fenced
from protocol.ids import AgentName, RunId
from protocol.log import Head, Record


class MemoryLog:
    """`ports.Log`."""

    def __init__(self) -> None:
        self._owners: list[RunId | None] = []
        self._records: dict[RunId, list[Record]] = {}
        self._readers: dict[RunId, set[Reader]] = {}

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """See `ports.Log`."""
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

    async def read(self, run: RunId, *, after: int, records_max: int = 256) -> Page:
        """See `ports.Log`."""
        page: list[Record] = []
        size_bytes = 0
        for record in self._records.get(run, ()):
            if record.seq <= after:
                continue
            size_bytes += len(record.payload)
            if len(page) == records_max or (page and size_bytes > READ_BYTES_MAX):
                return Page(page, more=True)
            page.append(record)
        return Page(page, more=False)

    async def last(self, run: RunId) -> Record | None:
        """See `ports.Log`."""
        records = self._records.get(run)
        return records[-1] if records else None

    async def owner(self, sequence: int) -> RunId | None:
        """See `ports.Log`."""
        return self._owners[sequence - 1] if 0 < sequence <= len(self._owners) else None

    async def purge(self, run: RunId) -> None:
        """See `ports.Log`."""
        for record in self._records.pop(run, ()):
            self._owners[record.seq - 1] = None

    @asynccontextmanager
    async def follow(self, run: RunId) -> AsyncIterator[Reader]:
        """See `ports.Log`."""
        reader = Reader()
        readers = self._readers.setdefault(run, set())
        readers.add(reader)
        try:
            yield reader
        finally:
            readers.discard(reader)


class MemoryDelivery:
    """`ports.Delivery`."""

    def __init__(self, requests: "MemoryRequests", request: RunRequest, delivered: int) -> None:
        self._requests = requests
        self.request = request
        self.delivered = delivered
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


class MemoryRequests:
    """`ports.Requests`. A request is due at once, and, while somebody has it, when their time is over."""

    def __init__(self, ack_wait_s: float = ACK_WAIT_S) -> None:
        self.ack_wait_s = ack_wait_s
        self._due: dict[RunRequest, float] = {}
        self._delivered: dict[RunRequest, int] = {}
        self._change = asyncio.Event()

    async def publish(self, request: RunRequest) -> None:
        """See `ports.Requests`."""
        if request not in self._due:
            self._due[request] = 0
            self._wake()

    @asynccontextmanager
    async def pull(self, agent: AgentName) -> AsyncIterator[Callable[[], Awaitable[MemoryDelivery]]]:
        """See `ports.Requests`."""

        async def following() -> MemoryDelivery:
            return await self._next(agent)

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
            now = asyncio.get_running_loop().time()
            waiting = {request: due for request, due in self._due.items() if request.agent == agent}
            for request, due in waiting.items():
                if due <= now:
                    self._due[request] = now + self.ack_wait_s
                    self._delivered[request] = self._delivered.get(request, 0) + 1
                    return MemoryDelivery(self, request, self._delivered[request])
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(waiting.values(), default=None)):
                    await self._change.wait()


class MemoryControl:
    """`ports.Control`."""

    def __init__(self) -> None:
        self._listeners: dict[RunId, list[Callable[[Word], None]]] = {}

    async def interrupt(self, run: RunId) -> bool:
        """See `ports.Control`."""
        return self._say(run, Interrupt())

    async def supersede(self, run: RunId, attempt: int) -> None:
        """See `ports.Control`."""
        self._say(run, Supersede(attempt))

    def _say(self, run: RunId, word: Word) -> bool:
        listeners = tuple(self._listeners.get(run, ()))
        for on_word in listeners:
            on_word(word)
        return bool(listeners)

    @asynccontextmanager
    async def listen(self, run: RunId, on_word: Callable[[Word], None]) -> AsyncIterator[None]:
        """See `ports.Control`."""
        listeners = self._listeners.setdefault(run, [])
        listeners.append(on_word)
        try:
            yield
        finally:
            listeners.remove(on_word)


class MemoryAgents:
    """`ports.Agents`."""

    def __init__(self) -> None:
        self._entries: dict[AgentName, AgentEntry] = {}

    async def announce(self, entry: AgentEntry) -> None:
        """See `ports.Agents`."""
        known = self._entries.get(entry.name)
        if known is None or not entry.yields_to(known):
            self._entries[entry.name] = entry

    async def find(self, agent: AgentName) -> AgentEntry | None:
        """See `ports.Agents`."""
        return self._entries.get(agent)

    async def list(self) -> Sequence[AgentEntry]:
        """See `ports.Agents`."""
        return list(self._entries.values())
