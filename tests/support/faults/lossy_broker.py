"""A TCP proxy on loopback that loses live messages. It reads the NATS client protocol.

It forwards everything but a seeded share of the republished records (`live.…`): a core NATS subscription may
lose messages without notice. It can also cut all its connections, or lose all that clients send.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Self
from urllib.parse import urlsplit

from rejoin_adapters.process.background import run_alongside

HOST = "127.0.0.1"
CRLF = b"\r\n"
LINE_BYTES_MAX = 1024 * 1024
READ_BYTES_MAX = 64 * 1024


class LossyBrokerUrl(str):
    """The proxy's URL with the broker's credentials, and the controls of the proxy."""

    __slots__ = ("_proxy",)
    _proxy: "_Proxy"

    def __new__(cls, url: str, proxy: "_Proxy") -> Self:
        one = super().__new__(cls, url)
        one._proxy = proxy
        return one

    @property
    def dropped(self) -> int:
        """The number of live messages lost so far."""
        return self._proxy.dropped

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return len(self._proxy.tasks)

    def mute(self) -> None:
        """Lose all that clients send from now on. They learn nothing of it."""
        self._proxy.is_mute = True

    def cut(self) -> None:
        """Cut every connection. New ones are accepted."""
        for task in tuple(self._proxy.tasks):
            task.cancel()


class _Proxy:
    def __init__(self, host: str, port: int, drop: float, seed: int) -> None:
        self._host = host
        self._port = port
        self._drop = drop
        self._random = Random(seed)
        self.dropped = 0
        self.is_mute = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side closes the connection."""
        with suppress(OSError, EOFError):
            from_server, to_server = await asyncio.open_connection(
                self._host, self._port, limit=LINE_BYTES_MAX
            )
            try:
                async with run_alongside(self._down(from_server, writer)):
                    while received := await reader.read(READ_BYTES_MAX):
                        if not self.is_mute:
                            to_server.write(received)
                            await to_server.drain()
            finally:
                to_server.transport.abort()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            line = await reader.readuntil(CRLF)
            match line.split(maxsplit=2):
                case [b"MSG" | b"HMSG", subject, *_]:
                    frame = line + await reader.readexactly(int(line.split()[-1]) + len(CRLF))
                    if subject.startswith(b"live.") and self._random.random() < self._drop:
                        self.dropped += 1
                        continue
                case [b"INFO", *_]:
                    frame = _without_other_ways(line)
                case _:
                    frame = line
            writer.write(frame)
            await writer.drain()


def _without_other_ways(line: bytes) -> bytes:
    """The server's INFO line without the addresses by which a client could bypass the proxy."""
    info = json.loads(line.removeprefix(b"INFO "))
    for key in ("connect_urls", "ws_connect_urls"):
        info.pop(key, None)
    return b"INFO " + json.dumps(info).encode() + CRLF


@asynccontextmanager
async def open_lossy_broker(
    nats_url: str, *, drop: float = 0.3, seed: int = 1
) -> AsyncIterator[LossyBrokerUrl]:
    """Open a proxy to the broker that drops this share of the live messages."""
    parts = urlsplit(nats_url)
    proxy = _Proxy(parts.hostname or HOST, parts.port or 4222, drop, seed)
    async with asyncio.TaskGroup() as group:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = group.create_task(proxy.serve(reader, writer))
            proxy.tasks.add(task)
            task.add_done_callback(proxy.tasks.discard)
            task.add_done_callback(lambda _: writer.transport.abort())  # also if it was cut before it began

        server = await asyncio.start_server(accept, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        credentials = parts.netloc.rpartition("@")[0]
        url = LossyBrokerUrl(
            f"nats://{credentials}@{HOST}:{port}" if credentials else f"nats://{HOST}:{port}", proxy
        )
        try:
            yield url
        finally:
            server.close()
            url.cut()
            await server.wait_closed()
