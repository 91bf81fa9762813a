"""Databases of a test's own, in a server that others use too."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg


@asynccontextmanager
async def fresh_database(database_url: str) -> AsyncIterator[str]:
    """The URL of an empty database, which is dropped at the end, whoever is still connected."""
    name = f"test_{secrets.token_hex(8)}"
    server = await asyncpg.connect(database_url)
    try:
        await server.execute(f"create database {name}")
        try:
            yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
        finally:
            await server.execute(f"drop database {name} with (force)")
    finally:
        await server.close()
