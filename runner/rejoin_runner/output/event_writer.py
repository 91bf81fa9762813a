"""The pen: what is said goes through it to the journal, paced, and in an order that reads well.

Owns how soon text is let out and where operations stand: those raised while a text is open wait for its end,
in a bounded queue, or for a silence. Nothing that is held is promised: a crash loses it together with the
step that it was said in. Whoever ends a response flushes first.
"""

import asyncio
from collections import deque

import msgspec
from msgspec import UNSET
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.log.record import Audience

from rejoin_runner.output.journal import Journal
from rejoin_runner.output.text_pacing import TextPacer

ASIDES_MAX = 256
"""How many operations wait at most; more, and all of them go out in the middle of the text."""
SILENCE_S = 1.0
"""How long an open text may say nothing until the operations behind it are let out all the same."""

type Delta = chunks.TextDelta | chunks.ReasoningDelta
type End = chunks.TextEnd | chunks.ReasoningEnd


class EventWriter:
    """Everything that a run says passes `say` or `aside`. `keep_time` must run beside whoever says it."""

    def __init__(self, journal: Journal, interval_s: float) -> None:
        self._journal = journal
        self._pacer = TextPacer(interval_s)
        self._paced = interval_s > 0
        self._deltas: dict[str, Delta] = {}  # the last delta of each part that may have something held
        self._texts: set[str] = set()
        self._asides: deque[tuple[Chunk, Audience]] = deque()
        self._spoken_s = 0.0
        self._turn = asyncio.Lock()
        self._news = asyncio.Event()
        self._alarm_s: float | None = None  # when `keep_time` wakes next

    async def write(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """The run's next event, at once or, if it is text, when its time has come. Raises `TooLarge`."""
        async with self._turn:
            match chunk:
                case chunks.TextDelta() | chunks.ReasoningDelta() if self._paced:
                    await self._delta(chunk)
                case chunks.TextEnd() | chunks.ReasoningEnd():
                    await self._end(chunk)
                case chunks.TextStart(id=id):
                    self._texts.add(id)
                    await self._write(chunk, audience)
                case _:
                    await self._write(chunk, audience)

    async def write_between_texts(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """Something that must not stand in the middle of a text. Raises `TooLarge`."""
        async with self._turn:
            if not self._texts:
                await self._write(chunk, audience)
                return
            self._journal.check(chunk)
            self._asides.append((chunk, audience))
            if len(self._asides) > ASIDES_MAX:
                await self._flush_asides()
            self._wake()

    async def flush(self) -> None:
        """Say all that is held. What is open stays open, and whoever closes it does not come here again."""
        async with self._turn:
            for part, text in self._pacer.all():
                await self._piece(part, text)
            self._texts.clear()
            await self._flush_asides()

    async def run_timer(self) -> None:
        """Let out what is held when its time has come, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            self._news.clear()
            self._alarm_s = self._due_s()
            try:
                async with asyncio.timeout_at(self._alarm_s):
                    await self._news.wait()
            except TimeoutError:
                async with self._turn:
                    await self._on_time(clock())

    def _due_s(self) -> float | None:
        asides_s = self._spoken_s + SILENCE_S if self._asides else None
        return min((at for at in (self._pacer.due_s(), asides_s) if at is not None), default=None)

    async def _on_time(self, now_s: float) -> None:
        for part, text in list(self._pacer.take(now_s)):
            await self._piece(part, text)
        if self._asides and now_s >= self._spoken_s + SILENCE_S:
            await self._flush_asides()

    def _wake(self) -> None:
        due_s = self._due_s()
        if due_s is not None and (self._alarm_s is None or due_s < self._alarm_s):
            self._news.set()

    async def _delta(self, chunk: Delta) -> None:
        part = _part(chunk)
        before = self._deltas.get(part)
        if before is not None and chunk.provider_metadata is UNSET:
            chunk = msgspec.structs.replace(chunk, provider_metadata=before.provider_metadata)
        self._deltas[part] = chunk
        text = self._pacer.add(part, chunk.delta, _now_s())
        if text:
            await self._piece(part, text)
        self._wake()

    async def _end(self, chunk: End) -> None:
        part = _part(chunk)
        if wait_s := self._pacer.wait_s(part, _now_s()):
            await asyncio.sleep(wait_s)
        text = self._pacer.rest(part)
        last = self._deltas.get(part)
        if text or (last is not None and last.provider_metadata is not UNSET):
            await self._piece(part, text)
        self._deltas.pop(part, None)
        await self._write(chunk, Audience.ALL)
        if isinstance(chunk, chunks.TextEnd):
            self._texts.discard(chunk.id)
        if not self._texts:
            await self._flush_asides()

    async def _piece(self, part: str, text: str) -> None:
        delta = self._deltas[part]
        await self._write(msgspec.structs.replace(delta, delta=text), Audience.ALL)
        self._deltas[part] = msgspec.structs.replace(delta, provider_metadata=UNSET)

    async def _flush_asides(self) -> None:
        while self._asides:
            await self._write(*self._asides.popleft())

    async def _write(self, chunk: Chunk, audience: Audience) -> None:
        self._spoken_s = _now_s()
        await self._journal.emit(chunk, audience)


def _part(chunk: Delta | End) -> str:
    """Texts and reasonings are numbered apart."""
    return f"{type(chunk).__name__[0]}{chunk.id}"


def _now_s() -> float:
    return asyncio.get_running_loop().time()
