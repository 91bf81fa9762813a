"""Connections to the shared database that outlive a test, as those of a service outlive a request.

PostgreSQL compiles each of our functions once in each connection. A test with connections of its own pays for
that in its first message: ten times what the message costs afterwards.
"""

import asyncio
from typing import Any

import msgspec

from rejoin_adapters.postgres.migrate import check_schema
from rejoin_adapters.postgres.pool import PING, Database, open_database

IDLE_MAX = 8
"""Pools, of 10 connections at the most; the server has 200 for all tests of a process."""


class WarmDatabases:
    """Lends pools with their connections, each to one service at a time. Those of the database `url` only:
    others are dropped by their tests.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[tuple[object, Database]] = []

    async def open(self, url: str, **options: Any) -> Database:
        """In place of `open_database`. Who closes it gives it back."""
        if url != self._url:
            return await open_database(url, **options)
        use = asyncio.get_running_loop(), msgspec.json.encode(options)
        for place, (for_use, database) in enumerate(self._idle):
            if for_use == use:
                del self._idle[place]
                await database.fetch_text(PING)  # a test may have ended the connections, or the server
                return database
        database = await open_database(url, **options)

        async def give_back() -> None:
            self._idle.append((use, database))
            if len(self._idle) > IDLE_MAX:
                await Database.close(self._idle.pop(0)[1])

        database.close = give_back  # type: ignore[method-assign]
        return database

    async def check_schema(self, url: str, *, exactly: bool = False) -> None:
        """In place of `migrate.check_schema`, which connects itself: the tests have migrated it."""
        if url != self._url:
            await check_schema(url, exactly=exactly)

    async def close(self) -> None:
        """Close those that nobody has."""
        for _, database in self._idle:
            await Database.close(database)
