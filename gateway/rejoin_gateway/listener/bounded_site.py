"""Accepts connections as long as there is room for them.

asyncio's server accepts whatever comes. Without file descriptors it logs an error for each of 128 tries,
again and again. Here connections wait in the kernel's queue until there is room.
"""

import asyncio
import errno
import socket
from asyncio import TaskGroup

from aiohttp import web

from rejoin_gateway.listener.connections import Connections

BACKLOG = 1024
"""Connections that the kernel holds for us. A client that finds no place there tries again."""
RETRY_S = 0.5
"""Pause when the system refuses to accept."""
NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
ACCEPTED_AT_ONCE_MAX = 64
"""Connections that are accepted at once. Then other tasks of the event loop run."""


class BoundedSite(web.BaseSite):
    """A listening address of an aiohttp server."""

    def __init__(self, runner: web.AppRunner, host: str, port: int, connections: Connections) -> None:
        super().__init__(runner)
        self._host = host
        self._port = port
        self._connections = connections
        self._listeners: list[socket.socket] = []

    @property
    def name(self) -> str:
        """The address as a URL."""
        return f"http://{self._host}:{self.port}"

    @property
    def port(self) -> int:
        """The port; the one that the system has chosen if 0 was wanted."""
        return self._listeners[0].getsockname()[1] if self._listeners else self._port

    async def start(self) -> None:
        """Listen; `accept` serves the clients. Raises `OSError` if the address cannot be used."""
        await super().start()
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(
            self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            self._listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
            listener.setblocking(False)

    async def stop(self) -> None:
        """Listen no more. The open connections stay. Call it when `accept` has been cancelled."""
        for listener in self._listeners:
            listener.close()
        await super().stop()

    async def accept(self) -> None:
        """Accept connections, and close those that do nothing, until cancelled."""
        async with TaskGroup() as group:
            group.create_task(self._sweep())
            for listener in self._listeners:
                group.create_task(self._accept(listener, group))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._connections.limits.sweep_s)
            self._connections.close_overdue()

    async def _accept(self, listener: socket.socket, group: TaskGroup) -> None:
        loop, connections = asyncio.get_running_loop(), self._connections
        accepted = 0
        while True:
            if not connections.has_room.is_set():
                await connections.has_room.wait()
            try:
                client, address = await loop.sock_accept(listener)
            except OSError as fault:
                if fault.errno in NO_RESOURCES:
                    connections.make_room()
                    await asyncio.sleep(RETRY_S)
                continue  # the client has left already
            self._serve(client, str(address[0]), group)
            accepted += 1
            if accepted % ACCEPTED_AT_ONCE_MAX == 0:
                await asyncio.sleep(0)

    def _serve(self, client: socket.socket, address: str, group: TaskGroup) -> None:
        server = self._runner.server
        connection = None if server is None else self._connections.add(server(), address)
        if connection is None:
            client.close()
            return

        async def connect() -> None:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, client)
            except (OSError, asyncio.CancelledError):  # the client has left, or the gateway stops
                self._connections.remove(connection)
                client.close()

        group.create_task(connect())
