"""The clients of a measurement: raw HTTP on sockets, so that reading many streams costs little.

Builds the requests, and records of each response the number of events, the last cursor, and the latency of
deltas that contain times: of one token or, if tokens were merged, of several.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

_TIMES = re.compile(rb'"delta": ?"([ \d]{9,})"')
_CURSOR = re.compile(rb"id: ([0-9-]+)\n")
_EVENT = b"data: {"
_RESET = b'"type":"reset-step"'
_END = b"\n\n"
OK = 200
READ_TIMEOUT_S = 120.0


class StreamReader(asyncio.Protocol):
    """One connection with one request and its response. Times are seconds since the request was sent.

    `timed`: record the latency of each delta, which costs more than everything else here.
    """

    def __init__(self, *, timed: bool = True) -> None:
        self._timed = timed
        self.events = 0
        self.first_s = 0.0
        self.first_token_s = 0.0
        self.longest_silence_s = 0.0
        self.headers_s = 0.0
        self.last_s = 0.0
        self.latencies_s: list[float] = []
        self.tokens_ns: list[int] = []
        self.restarts = 0
        self.cursor = b""
        self.status = 0
        self.done = False
        self._sent_ns = 0
        self._rest = b""
        self._events_wanted = 0
        self._lost = False
        self._finished: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101
        self.transport = transport

    def send(self, request: bytes) -> None:
        """Send the request."""
        self._sent_ns = time.monotonic_ns()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        now_ns = time.monotonic_ns()
        if not self.status:
            self.status = int(data[9:12])
            self.headers_s = (now_ns - self._sent_ns) / 1e9
            if self.status != OK:
                self._check()
        received = self._rest + data
        cut = received.rfind(_END) + len(_END)
        if cut < len(_END):
            self._rest = received
            return
        whole, self._rest = received[:cut], received[cut:]
        self.events += whole.count(_EVENT)
        if self._timed:
            self._record_tokens(whole, now_ns)
        last_s, self.last_s = self.last_s, (now_ns - self._sent_ns) / 1e9
        self.longest_silence_s = max(self.longest_silence_s, self.last_s - last_s)
        self.first_token_s = self.first_token_s or (self.last_s if self.latencies_s else 0.0)
        self.first_s = self.first_s or (self.last_s if self.events else 0.0)
        if (at := whole.rfind(b"id: ")) >= 0 and (cursor := _CURSOR.match(whole, at)):
            self.cursor = cursor[1]
        self.done = self.done or b"data: [DONE]" in whole
        self._check()

    def _record_tokens(self, whole: bytes, now_ns: int) -> None:
        """`tokens_ns`: the tokens that the viewer shows; `reset-step` removes those before it."""
        _, reset, after = whole.rpartition(_RESET)
        if reset:
            self.tokens_ns.clear()
            self.restarts += 1
        times_ns = [int(word) for words in _TIMES.findall(after) for word in words.split()]
        self.tokens_ns += times_ns
        self.latencies_s += [(now_ns - time_ns) / 1e9 for time_ns in times_ns]

    def connection_lost(self, _: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._lost = True
        self._check()

    def _check(self) -> None:
        if self._finished is None or self._finished.done():
            return
        if self.done or 0 < self._events_wanted <= self.events:
            self._finished.set_result(None)
        elif self._lost or self.status not in {0, OK}:
            self._finished.set_exception(ConnectionError(f"status {self.status}, {self.events} events"))

    async def read(self, events: int = 0) -> "StreamReader":
        """Wait for `events` events, or with 0 for the end of the stream."""
        self._events_wanted = events
        self._finished = asyncio.get_running_loop().create_future()
        self._check()
        async with asyncio.timeout(READ_TIMEOUT_S):
            await self._finished
        return self

    async def wait_for_status(self) -> None:
        """Wait for the status. Raises `ConnectionError` unless it is 200."""
        async with asyncio.timeout(READ_TIMEOUT_S):
            while not self.status and not self._lost:  # noqa: ASYNC110 - cheaper than an event for each of thousands
                await asyncio.sleep(0.02)
        if self.status != OK:
            raise ConnectionError(f"status {self.status}")

    def close(self) -> None:
        """Close the connection without reading the rest."""
        self.transport.abort()


async def connect(base: str, *, timed: bool = True) -> StreamReader:
    """Open a connection without sending a request."""
    address = urlsplit(base)
    loop = asyncio.get_running_loop()
    _, reader = await loop.create_connection(
        lambda: StreamReader(timed=timed), address.hostname or "", address.port or 80
    )
    return reader


async def send(base: str, request: bytes, *, timed: bool = True) -> StreamReader:
    """Send a request on a new connection."""
    reader = await connect(base, timed=timed)
    reader.send(request)
    return reader


def chat_request(text: str, agent: str = "clock", session: str = "") -> bytes:
    """The request that sends a message to a session, by default a new one."""
    message = {"id": uuid.uuid4().hex, "role": "user", "parts": [{"type": "text", "text": text}]}
    body = msgspec.json.encode(
        {"id": session or uuid.uuid4().hex, "messages": [message], "trigger": "submit-message"}
    )
    head = (
        "POST /api/chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"x-agent-id: {agent}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def resume_request(session: str, cursor: bytes = b"") -> bytes:
    """The request for a session's stream, from its start or after a cursor."""
    position = b"Last-Event-ID: " + cursor + b"\r\n" if cursor else b""
    return (
        b"GET /api/chat/" + session.encode() + b"/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n" + position + b"\r\n"
    )


async def wait_for_agent(base: str, text: str, agent: str = "clock") -> None:
    """Send the message until it is answered."""
    status = 0
    while status != OK:
        stream = await send(base, chat_request(text, agent))
        try:
            await stream.wait_for_status()
            await stream.read()
        except ConnectionError:
            pass
        status = stream.status
        stream.close()


async def send_chats(
    base: str, texts: Sequence[str], *, concurrency: int, interval_s: float = 0.0, agent: str = "clock"
) -> list[StreamReader]:
    """Send a chat message for each text, and read each answer to its end.

    `concurrency`: the maximum at once. `interval_s`: the time between two messages.
    """
    slots = asyncio.Semaphore(concurrency)

    async def run(text: str) -> StreamReader:
        async with slots:
            reader = await (await send(base, chat_request(text, agent))).read()
            reader.close()
            return reader

    tasks = []
    async with asyncio.TaskGroup() as group:
        for text in texts:
            tasks.append(group.create_task(run(text)))
            await asyncio.sleep(interval_s)
    return [task.result() for task in tasks]


async def open_streams(base: str, requests: Iterable[bytes], *, concurrency: int = 50) -> list[StreamReader]:
    """Send all requests. Returns when each has a status."""
    slots = asyncio.Semaphore(concurrency)

    async def run(request: bytes) -> StreamReader:
        async with slots:
            reader = await send(base, request)
            await reader.wait_for_status()
            return reader

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(run(request)) for request in requests]
    return [task.result() for task in tasks]
