"""An answer: one stream of events, through any number of broken connections.

Owns where its reader is. The law is the server's: every event has an id, `Last-Event-ID` continues behind it,
410 says that the place is gone, and only `[DONE]` says that the answer is whole. A body that ends without it
has broken, however politely.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import Self
from urllib.parse import quote

import aiohttp
import msgspec

from rejoin_client.errors import Gone, Lost
from rejoin_client.events import Event, ResetStep, Restarted, StartStep, TextDelta, decode
from rejoin_client.wire import BROKEN, Ask, Pauses, Wire

_DONE = b"[DONE]"


class Answer:
    """Iterate over it, once; it is closed at the end, or by `async with`, or by `aclose`. Leaving it stops
    nothing but the listening.

    Iteration raises `Refused` for what the server will not repeat, and `Lost` when patience is over, or when
    it is gone on with after it was closed or cancelled: it never ends quietly before the answer does.
    """

    run: str
    """Its id, for `executions`."""
    session: str
    cursor: str
    """Of the last event that was handed out; empty before the first one."""
    breaks: int
    """How often the connection broke."""
    complete: bool
    """Whether it was read to its end."""

    def __init__(self, wire: Wire, begin: Ask, pauses: Pauses, response: aiohttp.ClientResponse) -> None:
        self._wire = wire
        self._begin = begin
        self._pauses = pauses
        self._response = response
        self._restarted = False
        self._events = self._read()
        self.run = response.headers.get("x-workflow-run-id", "")
        self.session = response.headers.get("X-Thread-Id", "")
        self.cursor = ""
        self.breaks = 0
        self.complete = False

    @classmethod
    async def begun(cls, wire: Wire, begin: Ask, cursor: str | None = None) -> "Answer | None":
        """Ask for one, behind a cursor if there is one; None if there is nothing to read.

        `begin` may be asked again, without the cursor, when the server no longer has that place.
        """
        pauses = Pauses(wire.retry, wire.retry.patience_s)
        restarted = False
        try:
            response = await wire.asked(_behind(begin, cursor), pauses)
        except Gone:
            if cursor is None:
                raise
            response, restarted = await wire.asked(begin, pauses), True
        if not _streams(response):
            response.release()
            return None
        answer = cls(wire, begin, pauses, response)
        answer._restarted = restarted
        answer.cursor = "" if restarted else cursor or ""
        return answer

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            if self.complete:
                raise
            raise Lost(f"the reading was broken off: go on behind the cursor {self.cursor!r}") from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop listening. The run goes on."""
        await self._events.aclose()
        self._response.close()

    async def text(self) -> str:
        """Read to the end; all that was said, without what was voided meanwhile."""
        pieces: list[str] = []
        step = 0
        async with self:
            async for event in self:
                match event:
                    case TextDelta(delta=delta):
                        pieces.append(delta)
                    case StartStep():
                        step = len(pieces)
                    case ResetStep():
                        del pieces[step:]
                    case Restarted():
                        pieces.clear()
                    case _:
                        pass
        return "".join(pieces)

    async def _read(self) -> AsyncGenerator[Event]:
        if self._restarted:
            yield Restarted()
        while True:
            async with aclosing(self._frames()) as frames:
                async for cursor, data in frames:
                    if data == _DONE:
                        self.complete = True
                        self._response.close()
                        return
                    self.cursor = cursor or self.cursor
                    yield decode(data)
            self.breaks += 1
            await self._pauses.wait(Lost(f"the stream of {self.run} broke"))
            if not await self._again():
                yield Restarted()

    async def _again(self) -> bool:
        """Behind the last event; False: that place is gone, and it begins again."""
        if self.cursor:
            try:
                self._response = await self._wire.asked(_behind(self._whole(), self.cursor), self._pauses)
            except Gone:
                pass
            else:
                return True
        nothing_seen, self.cursor = not self.cursor, ""
        begin = self._whole() if self._begin.method == "GET" else self._begin
        self._response = await self._wire.asked(begin, self._pauses)
        if not _streams(self._response):
            self._response.release()
            raise Lost("the answer cannot be had again: the history has it")
        return nothing_seen

    def _whole(self) -> Ask:
        """By the run, not by the session: that may have a newer one."""
        query = {name: value for name, value in self._begin.query.items() if name == "follow"}
        return Ask(method="GET", path=stream_of(self.run), headers=self._begin.headers, query=query)

    async def _frames(self) -> AsyncGenerator[tuple[str, bytes]]:
        """Cursor and data of each event of the response, until it ends, for whatever reason."""
        rest = b""
        try:
            async for received in self._response.content.iter_any():
                *blocks, rest = (rest + received).split(b"\n\n")
                if blocks:  # a comment, too: somebody is there
                    self._pauses.heard()
                for frame in _parsed(blocks):
                    yield frame
        except BROKEN:
            pass
        self._response.close()


def stream_of(run: str) -> str:
    """The path of a run's stream."""
    return f"/run/api/executions/{quote(run, safe='')}/stream"


def _behind(ask: Ask, cursor: str | None) -> Ask:
    if not cursor:
        return ask
    headers: Mapping[str, str] = {**ask.headers, "Last-Event-ID": cursor}
    return msgspec.structs.replace(ask, headers=headers)


def _streams(response: aiohttp.ClientResponse) -> bool:
    return response.status != HTTPStatus.NO_CONTENT and response.content_type == "text/event-stream"


def _parsed(blocks: list[bytes]) -> Iterator[tuple[str, bytes]]:
    """Server-sent events; comments are passed over."""
    for block in blocks:
        cursor, data = "", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            if field == b"id":
                cursor = value.strip().decode()
            elif field == b"data":
                data.append(value.removeprefix(b" "))
        if data:
            yield cursor, b"\n".join(data)
