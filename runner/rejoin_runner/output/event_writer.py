"""Paces a run's events on their way to the journal, and keeps operations out of the middle of texts.

Text deltas are merged and sent at intervals; see `text_pacing`. Operations that are emitted while a text is
open wait in a bounded queue for the text's end, or for a pause of the text. Buffered events are lost in a
crash, together with their step; call `flush` before you end a response.
"""

import asyncio
from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec import UNSET

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.limits import EVENT_BYTES_MAX
from rejoin_protocol.log.record import Audience
from rejoin_runner.output.bounded_work import refuse_if_abandoned
from rejoin_runner.output.journal import Journal
from rejoin_runner.output.text_pacing import TextPacer
from rejoin_runner.output.whole_characters import WholeCharacters

QUEUED_OPERATIONS_MAX = 256
"""With one more, all queued operations are written in the middle of the text."""
PAUSE_S = 1.0
"""After an open text has been silent for this long, the queued operations are written."""

DELTA_CHARS_MAX = EVENT_BYTES_MAX // 7
"""Characters of a delta in one event: as JSON a character has at most 6 bytes."""

type Start = chunks.TextStart | chunks.ReasoningStart
type Delta = chunks.TextDelta | chunks.ReasoningDelta
type End = chunks.TextEnd | chunks.ReasoningEnd


class EventWriter:
    """The way of all of a run's events to the journal. `run_timer` must run beside the code that writes.

    `interval_s` is the least time between two deltas of one part; 0 turns pacing off.
    """

    def __init__(self, journal: Journal, interval_s: float) -> None:
        self._journal = journal
        self._pacer = TextPacer(interval_s)
        self._is_paced = interval_s > 0
        self._characters = WholeCharacters()
        self._last_deltas: dict[str, Delta] = {}
        """The last delta of each open part: the form of the next one, and its metadata if not written yet."""
        self._open_texts: set[str] = set()
        self._open_parts: set[str] = set()
        self._operations: deque[tuple[Chunk, Audience]] = deque()
        self._last_write_s = 0.0
        self._lock = asyncio.Lock()
        """Held during a write: a write may wait for the journal, and others must not overtake it."""
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        """Sets `_due`."""

    async def write(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Write the run's next event: text when its interval is over, anything else at once. Raises
        `EventTooLarge`, and `Invalid` for an event of a part or a call that does not exist.
        """
        async with self._lock:
            refuse_if_abandoned()
            for one in self._characters.join(chunk):
                await self._write(one, audience)

    async def _write(self, chunk: Chunk, audience: Audience) -> None:
        match chunk:
            case chunks.TextDelta() | chunks.ReasoningDelta() if self._is_paced:
                await self._write_delta(chunk)
            case chunks.TextEnd() | chunks.ReasoningEnd():
                await self._write_end(chunk)
            case chunks.TextStart() | chunks.ReasoningStart():
                self._open_parts.add(_part_key(chunk))
                if isinstance(chunk, chunks.TextStart):
                    self._open_texts.add(chunk.id)
                await self._emit(chunk, audience)
            case _:
                await self._emit(chunk, audience)

    async def write_between_texts(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Write an event that must not be in the middle of a text: at once, or after the open texts. Raises
        `EventTooLarge` in both cases.
        """
        async with self._lock:
            refuse_if_abandoned()
            if not self._open_texts:
                await self._emit(chunk, audience)
                return
            self._journal.encode(chunk)  # raises here, where the caller can handle it
            self._operations.append((chunk, audience))
            if len(self._operations) > QUEUED_OPERATIONS_MAX:
                await self._write_operations()
            self._set_timer()

    async def flush(self) -> None:
        """Write all that is buffered. Call it before the open parts are ended; no text may follow."""
        async with self._lock:
            refuse_if_abandoned()
            for part, text in self._pacer.take_all():
                await self._emit_text(part, text)
            self._open_texts.clear()
            await self._write_operations()

    async def run_timer(self) -> None:
        """Write what is buffered when it is due, until cancelled."""
        try:
            while True:
                await self._due.wait()
                self._due.clear()
                self._timer = None
                async with self._lock:
                    await self._write_due(_now_s())
                    self._set_timer()
        finally:
            if self._timer is not None:
                self._timer.cancel()

    def _due_s(self) -> float | None:
        operations_s = self._last_write_s + PAUSE_S if self._operations else None
        times_s = (self._pacer.due_s(), operations_s)
        return min((time_s for time_s in times_s if time_s is not None), default=None)

    async def _write_due(self, now_s: float) -> None:
        for part, text in list(self._pacer.take_due(now_s)):
            await self._emit_text(part, text)
        if self._operations and now_s >= self._last_write_s + PAUSE_S:
            await self._write_operations()

    def _set_timer(self) -> None:
        """Let `run_timer` wake when something is due. A timer that fires too early is kept: else a fast model
        would set one for each delta.
        """
        due_s = self._due_s()
        if due_s is None or (self._timer is not None and self._timer.when() <= due_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due_s, self._due.set)

    async def _write_delta(self, chunk: Delta) -> None:
        part = _part_key(chunk)
        if part not in self._open_parts:
            # Here, where the writer of the delta gets the error: the timer that writes it later has nobody.
            raise Invalid(f"no part is open under the id {chunk.id!r}")
        last = self._last_deltas.get(part)
        if last is not None and chunk.provider_metadata is UNSET:
            chunk = msgspec.structs.replace(chunk, provider_metadata=last.provider_metadata)
        self._last_deltas[part] = chunk
        text = self._pacer.add(part, chunk.delta, _now_s())
        if text:
            await self._emit_text(part, text)
        self._set_timer()

    async def _write_end(self, chunk: End) -> None:
        part = _part_key(chunk)
        if wait_s := self._pacer.wait_s(part, _now_s()):
            await asyncio.sleep(wait_s)
        text = self._pacer.take_rest(part)
        last = self._last_deltas.get(part)
        if text or (last is not None and last.provider_metadata is not UNSET):
            await self._emit_text(part, text)
        self._last_deltas.pop(part, None)
        self._open_parts.discard(part)
        await self._emit(chunk, Audience.ALL)
        if isinstance(chunk, chunks.TextEnd):
            self._open_texts.discard(chunk.id)
        if not self._open_texts:
            await self._write_operations()

    async def _emit_text(self, part: str, text: str) -> None:
        delta = self._last_deltas[part]
        await self._emit(msgspec.structs.replace(delta, delta=text), Audience.ALL)
        self._last_deltas[part] = msgspec.structs.replace(delta, provider_metadata=UNSET)  # written now

    async def _write_operations(self) -> None:
        while self._operations:
            await self._emit(*self._operations.popleft())

    async def _emit(self, chunk: Chunk, audience: Audience) -> None:
        self._last_write_s = _now_s()
        for piece in _split_large(chunk):
            await self._journal.emit(piece, audience)


def _split_large(chunk: Chunk) -> Iterable[Chunk]:
    """The chunk, or several that say the same: a delta may be larger than an event can be."""
    match chunk:
        case chunks.TextDelta(delta=text) | chunks.ReasoningDelta(delta=text) if len(text) > DELTA_CHARS_MAX:
            first, *others = _pieces(text)
            yield msgspec.structs.replace(chunk, delta=first)
            for other in others:
                yield msgspec.structs.replace(chunk, delta=other, provider_metadata=UNSET)
        case chunks.ToolInputDelta(input_text_delta=text) if len(text) > DELTA_CHARS_MAX:
            for piece in _pieces(text):
                yield msgspec.structs.replace(chunk, input_text_delta=piece)
        case _:
            yield chunk


def _pieces(text: str) -> list[str]:
    return [text[at : at + DELTA_CHARS_MAX] for at in range(0, len(text), DELTA_CHARS_MAX)]


def _part_key(chunk: Start | Delta | End) -> str:
    """A key for the part: a text and a reasoning may have the same id."""
    return f"{type(chunk).__name__[0]}{chunk.id}"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
