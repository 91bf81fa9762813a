"""What the browser tests need: a browser, and real processes behind a load balancer."""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from tests.support.browser.node import skip_or_fail
from tests.support.system.observation import wait_until
from tests.support.system.processes import HOST, Dev

HERE = Path(__file__).parents[2] / "browser"
CHROMIUM = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
"""The headless shell is Chromium without windows: each page takes a sixth of the processor time to open."""
READ_BYTES = 65_536


def find_chromium() -> str:
    """The path of the browser. Skips the test if there is none, or fails it if `CI` is set."""
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    return found or skip_or_fail("the browser tests need Chromium, and there is none")


class LoadBalancer:
    """A minimal load balancer: a connection goes to the first gateway that accepts it. `ports` may grow."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.taken = Counter[int]()
        self.base = ""
        self._writers: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["LoadBalancer"]:
        """It listens, for as long as the context."""
        server = await asyncio.start_server(self._serve, HOST, 0)
        self.base = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    def cut(self) -> None:
        """Break every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            upstream = await self._connect()
            if upstream is not None:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_copy(reader, upstream[1], writer))
                    group.create_task(_copy(upstream[0], writer, upstream[1]))
        finally:
            writer.transport.abort()
            self._writers.discard(writer)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for port in self.ports:
            with suppress(OSError):
                found = await asyncio.open_connection(HOST, port)
                self.taken[port] += 1
                return found
        return None


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter
) -> None:
    """Copy until either side ends; then close both without a clean end, as after a crash."""
    try:
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
        back.transport.abort()


class BrowserSite:
    """A `rejoin dev` behind a load balancer."""

    def __init__(self, dev: Dev, front: LoadBalancer) -> None:
        self.dev = dev
        self.front = front

    @property
    def base(self) -> str:
        """Where a browser goes."""
        return self.front.base

    async def whole(self) -> None:
        """Until all are there; who connects from then on comes to the first gateway."""

        async def listening() -> bool:
            for port in self.front.ports:
                try:
                    _, writer = await asyncio.open_connection(HOST, port)
                except OSError:
                    return False
                writer.close()
            return len(self.dev.command.living("runner")) == self.dev.each

        await wait_until(listening, "the return of all")
        self.front.cut()
