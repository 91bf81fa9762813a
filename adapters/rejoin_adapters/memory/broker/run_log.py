"""`RunLog` in memory. All gateways and runners of a test share one object."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from rejoin_adapters.jetstream.live_feed import LiveReader
from rejoin_adapters.jetstream.run_log import LOG_READ_BYTES_MAX, PAGE_RECORDS
from rejoin_adapters.ports.run_log import CALLS_READ_BYTES_MAX, PAGE_CALLS, LogPage, StoredCalls
from rejoin_protocol.errors import Fenced, Invalid
from rejoin_protocol.ids import RunId
from rejoin_protocol.limits import MIB
from rejoin_protocol.log import segment
from rejoin_protocol.log.record import Head, Record


class MemoryRunLog:
    """`RunLog` in memory. `payload_bytes_max`: of a message, as a broker has it."""

    def __init__(self, payload_bytes_max: int = 2 * MIB) -> None:
        self._payload_bytes_max = payload_bytes_max
        self._owners: list[RunId | None] = []
        self._records: dict[RunId, list[Record]] = {}
        self._segments: dict[RunId, list[bytes]] = {}
        self._model_calls: dict[RunId, list[tuple[int, int, bytes]]] = {}
        self._readers: dict[RunId, set[LiveReader]] = {}

    async def append(self, run: RunId, head: Head, payload: bytes) -> int:
        """See `RunLog`."""
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
        """See `RunLog`."""
        stored = [record for record in self._records.get(run, ()) if record.seq > after]
        if records_max is None and stored:
            copies = segment.records_after(stored[0].seq, self._segments.get(run, ()))
            stored[1 : 1 + len(copies)] = copies
        page: list[Record] = []
        size_bytes = 0
        for record in stored:
            size_bytes += len(record.payload)
            if len(page) == (records_max or PAGE_RECORDS) or (page and size_bytes > LOG_READ_BYTES_MAX):
                return LogPage(page, more=True)
            page.append(record)
        return LogPage(page, more=False)

    async def add_segment(self, run: RunId, records: Sequence[Record]) -> None:
        """See `RunLog`."""
        self._owners.append(None)
        self._segments.setdefault(run, []).append(segment.pack(records))

    async def add_model_call(self, run: RunId, step: int, stored: bytes) -> None:
        """See `RunLog`."""
        if len(stored) > self._payload_bytes_max:
            raise Invalid("the message is larger than the broker accepts")
        self._owners.append(None)
        self._model_calls.setdefault(run, []).append((len(self._owners), step, stored))

    async def model_calls(
        self, run: RunId, *, after: int, step: int | None = None, records_max: int | None = None
    ) -> StoredCalls:
        """See `RunLog`."""
        wanted = [
            (sequence, stored)
            for sequence, of, stored in self._model_calls.get(run, ())
            if sequence > after and step in {None, of}
        ]
        page: list[bytes] = []
        for sequence, stored in wanted:
            page.append(stored)
            is_full = len(page) == min(records_max or PAGE_CALLS, PAGE_CALLS)
            if is_full or sum(map(len, page)) >= CALLS_READ_BYTES_MAX:
                return StoredCalls(page, sequence if len(page) < len(wanted) else 0)
        return StoredCalls(page, 0)

    async def has_records_after(self, run: RunId, *, after: int) -> bool:
        """See `RunLog`."""
        return any(record.seq > after for record in self._records.get(run, ()))

    async def last(self, run: RunId) -> Record | None:
        """See `RunLog`."""
        records = self._records.get(run)
        return records[-1] if records else None

    async def run_at(self, sequence: int) -> RunId | None:
        """See `RunLog`."""
        return self._owners[sequence - 1] if 0 < sequence <= len(self._owners) else None

    async def purge(self, run: RunId) -> None:
        """See `RunLog`."""
        self._segments.pop(run, None)
        self._model_calls.pop(run, None)
        for record in self._records.pop(run, ()):
            self._owners[record.seq - 1] = None

    async def expect(self, run: RunId) -> None:
        """See `RunLog`. To read costs nothing here."""

    async def forget(self, run: RunId) -> None:
        """See `RunLog`."""

    @asynccontextmanager
    async def follow(self, run: RunId) -> AsyncIterator[LiveReader]:
        """See `RunLog`."""
        reader = LiveReader()
        readers = self._readers.setdefault(run, set())
        readers.add(reader)
        try:
            yield reader
        finally:
            readers.discard(reader)
            reader.close()
