"""A TCP proxy on loopback that cuts connections in the middle of an answer.

It resets each connection after a seeded number of bytes from the server, `cuts_max` times in all. Later
connections are not cut.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random
from urllib.parse import urlsplit

from rejoin_adapters.process.background import run_alongside

HOST = "127.0.0.1"
READ_BYTES_MAX = 64 * 1024


class CuttingProxy:
    """The proxy. `url` is its address, `cuts` the number of connections that it has cut."""

    def __init__(self, base: str, *, cuts_max: int, bytes_max: int, seed: int) -> None:
        self._server = urlsplit(base)
        self._cuts_max = cuts_max
        self._bytes_max = bytes_max
        self._random = Random(seed)
        self.url = ""
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side closes the connection or the proxy cuts it."""
        limit = self._random.randint(0, self._bytes_max) if self.cuts < self._cuts_max else None
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection(self._server.hostname, self._server.port)
            try:
                async with run_alongside(_pass(reader, to_server)):
                    await self._down(from_server, writer, limit)
            finally:
                to_server.transport.abort()

    async def _down(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int | None
    ) -> None:
        while received := await reader.read(READ_BYTES_MAX):
            if limit is not None and len(received) > limit:
                if self.cuts == self._cuts_max:  # others were cut meanwhile
                    limit = None
                else:
                    self.cuts += 1
                    writer.write(received[:limit])
                    await writer.drain()
                    return
            limit = None if limit is None else limit - len(received)
            writer.write(received)
            await writer.drain()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while received := await reader.read(READ_BYTES_MAX):
            writer.write(received)
            await writer.drain()


@asynccontextmanager
async def cut_connections(
    base: str, *, cuts_max: int, bytes_max: int, seed: int = 1
) -> AsyncIterator[CuttingProxy]:
    """Open a proxy to a gateway that cuts up to `cuts_max` connections after up to `bytes_max` bytes each."""
    proxy = CuttingProxy(base, cuts_max=cuts_max, bytes_max=bytes_max, seed=seed)
    tasks: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = group.create_task(proxy.serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: writer.close())

        server = await asyncio.start_server(accept, HOST, 0)
        proxy.url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        try:
            yield proxy
        finally:
            server.close()
            for task in tuple(tasks):
                task.cancel()
            await server.wait_closed()
