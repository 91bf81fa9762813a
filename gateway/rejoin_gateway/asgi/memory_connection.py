"""A connection between an ASGI server and aiohttp's HTTP protocol, in memory.

For aiohttp it is the transport of a client's connection, with flow control in both directions: aiohttp waits
while the ASGI server's client reads slowly, and the request's body waits while aiohttp does not take it.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

SCOPE = "asgi.scope"
"""Name under which `request.get_extra_info` returns the ASGI scope of a request."""
OUTPUT_BYTES_MAX = 64 * 1024
"""aiohttp pauses writing while more than this is unread."""


class MemoryConnection(asyncio.Transport):
    """`read` returns what aiohttp has written; `feed` passes the client's bytes to aiohttp."""

    def __init__(self, protocol: asyncio.Protocol, scope: Mapping[str, Any]) -> None:
        super().__init__({SCOPE: scope, "peername": scope.get("client"), "sockname": scope.get("server")})
        self.has_left = False
        """Whether the client has left."""
        self._protocol = protocol
        self._output = bytearray()
        self._is_closing = False
        self._is_lost = False
        self._is_paused = False
        self._has_output = asyncio.Event()
        self._may_feed = asyncio.Event()
        self._may_feed.set()
        protocol.connection_made(self)

    # ----------------------------------------------------------------- for the ASGI server

    async def feed(self, data: bytes) -> None:
        """Pass bytes of the request on, as soon as aiohttp takes them."""
        await self._may_feed.wait()
        if not self._is_closing:
            self._protocol.data_received(data)

    async def read(self) -> bytes:
        """All bytes that are written and not read yet; empty once the connection is closed."""
        await self._has_output.wait()
        output = bytes(self._output)
        self._output.clear()
        if not self._is_closing:
            self._has_output.clear()
        if self._is_paused:
            self._is_paused = False
            self._protocol.resume_writing()
        return output

    def leave(self) -> None:
        """The client has left, or its response is complete: aiohttp cancels what it still does for it."""
        self.has_left = True
        self._is_closing = True
        self._may_feed.set()
        self._has_output.set()
        asyncio.get_running_loop().call_soon(self._lose)  # behind what aiohttp does with the last bytes

    # ------------------------------------------------------------------------- for aiohttp

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `asyncio.Transport`."""
        if self._is_closing or not data:
            return
        self._output += data
        self._has_output.set()
        if len(self._output) > OUTPUT_BYTES_MAX and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def is_closing(self) -> bool:
        """See `asyncio.Transport`."""
        return self._is_closing

    def close(self) -> None:
        """Close it behind what is written. See `asyncio.Transport`."""
        if not self._is_closing:
            self._is_closing = True
            self._has_output.set()
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        """Break it: what is not read yet is lost. See `asyncio.Transport`."""
        self._output.clear()
        self.close()

    def pause_reading(self) -> None:
        """See `asyncio.Transport`."""
        self._may_feed.clear()

    def resume_reading(self) -> None:
        """See `asyncio.Transport`."""
        self._may_feed.set()

    def is_reading(self) -> bool:
        """See `asyncio.Transport`."""
        return self._may_feed.is_set()

    def get_write_buffer_size(self) -> int:
        """See `asyncio.Transport`."""
        return len(self._output)

    def can_write_eof(self) -> bool:
        """See `asyncio.Transport`."""
        return False

    def _lose(self) -> None:
        self._is_closing = True
        self._may_feed.set()
        self._has_output.set()
        if not self._is_lost:
            self._is_lost = True
            self._protocol.connection_lost(None)
