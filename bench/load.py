"""The client's side of a measurement: raw HTTP on sockets, so that many streams cost their reader little.

Owns requests and what is heard of the answers: how many events, the last cursor, and, where a delta is the
time at which it was made, how long it took to come.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

_MADE = re.compile(rb'"delta":"(\d{9,})"')
_CURSOR = re.compile(rb"id: ([0-9-]+)\n")
_EVENT = b"\ndata: {"
_END = b"\n\n"
PATIENCE_S = 120.0


class Heard(asyncio.Protocol):
    """One connection, one request, one answer. Times are seconds since the request was written. `timed`: the
    age of each delta is looked at, which costs more than all else here.
    """

    def __init__(self, *, timed: bool = True) -> None:
        self._timed = timed
        self.events = 0
        self.first_s = 0.0
        self.headers_s = 0.0
        self.last_s = 0.0
        self.latencies_s: list[float] = []
        self.cursor = b""
        self.status = 0
        self.done = False
        self._asked_ns = 0
        self._rest = b""
        self._wanted = 0
        self._lost = False
        self._enough: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self.transport = transport

    def ask(self, request: bytes) -> None:
        """Write it."""
        self._asked_ns = time.monotonic_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        now_ns = time.monotonic_ns()
        if not self.status:
            self.status = int(data[9:12])
            self.headers_s = (now_ns - self._asked_ns) / 1e9
        received = self._rest + data
        cut = received.rfind(_END) + len(_END)
        if cut < len(_END):
            self._rest = received
            return
        whole, self._rest = received[:cut], received[cut:]
        self.events += whole.count(_EVENT)
        if self._timed:
            self.latencies_s += [(now_ns - int(made)) / 1e9 for made in _MADE.findall(whole)]
        self.last_s = (now_ns - self._asked_ns) / 1e9
        self.first_s = self.first_s or (self.last_s if self.events else 0.0)
        if (at := whole.rfind(b"id: ")) >= 0 and (found := _CURSOR.match(whole, at)):
            self.cursor = found[1]
        self.done = self.done or b"data: [DONE]" in whole
        self._look()

    def connection_lost(self, _: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._lost = True
        self._look()

    def _look(self) -> None:
        if self._enough is None or self._enough.done():
            return
        if self.done or 0 < self._wanted <= self.events:
            self._enough.set_result(None)
        elif self._lost:
            self._enough.set_exception(ConnectionError(f"status {self.status}, {self.events} events"))

    async def until(self, events: int = 0) -> "Heard":
        """Until so many events have come, or all."""
        self._wanted = events
        self._enough = asyncio.get_running_loop().create_future()
        self._look()
        async with asyncio.timeout(PATIENCE_S):
            await self._enough
        return self

    async def answered(self) -> None:
        """Until there is a status."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.status and not self._lost:  # noqa: ASYNC110 - thousands wait like this, and none is in a hurry
                await asyncio.sleep(0.02)
        if self.status != 200:  # noqa: PLR2004
            raise ConnectionError(f"status {self.status}")

    def cut(self) -> None:
        """Leave."""
        self.transport.abort()


async def connected(base: str, *, timed: bool = True) -> Heard:
    """A connection that has asked for nothing yet."""
    address = urlsplit(base)
    loop = asyncio.get_running_loop()
    _, heard = await loop.create_connection(
        lambda: Heard(timed=timed), address.hostname or "", address.port or 80
    )
    return heard


async def ask(base: str, request: bytes, *, timed: bool = True) -> Heard:
    """On a connection of its own."""
    heard = await connected(base, timed=timed)
    heard.ask(request)
    return heard


def post(text: str, agent: str = "clock") -> bytes:
    """A new session's first message."""
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": text}]}
    body = msgspec.json.encode({"id": uuid.uuid4().hex, "messages": [message], "trigger": "submit-message"})
    head = (
        "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"x-agent-id: {agent}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def rejoin(session: str, cursor: bytes = b"") -> bytes:
    """A session's stream, from its beginning or behind a cursor."""
    position = b"Last-Event-ID: " + cursor + b"\r\n" if cursor else b""
    return (
        b"GET /api/chat/" + session.encode() + b"/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n" + position + b"\r\n"
    )


async def asks(base: str, texts: Sequence[str], *, at_once: int, apart_s: float = 0.0) -> list[Heard]:
    """A POST for each text, read to its end; so many at once at most, and so much time between them."""
    gate = asyncio.Semaphore(at_once)

    async def one(text: str) -> Heard:
        async with gate:
            heard = await (await ask(base, post(text))).until()
            heard.cut()
            return heard

    tasks = []
    async with asyncio.TaskGroup() as group:
        for text in texts:
            tasks.append(group.create_task(one(text)))
            await asyncio.sleep(apart_s)
    return [task.result() for task in tasks]


async def follow(base: str, requests: Iterable[bytes], *, at_once: int = 50) -> list[Heard]:
    """A stream for each request, once all of them are answered."""
    gate = asyncio.Semaphore(at_once)

    async def one(request: bytes) -> Heard:
        async with gate:
            heard = await ask(base, request)
            await heard.answered()
            return heard

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(request)) for request in requests]
    return [task.result() for task in tasks]
