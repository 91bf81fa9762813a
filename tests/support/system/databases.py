"""Databases that belong to one test, in the shared server."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import asyncpg

from rejoin_adapters.postgres import migrate

TEMPLATE = "migrated"


@asynccontextmanager
async def fresh_database(database_url: str, *, template: str = "template1") -> AsyncIterator[str]:
    """The URL of a new database: empty, or a copy of a template that nobody is connected to. It is dropped at
    the end, even with open connections.
    """
    name = f"test_{secrets.token_hex(8)}"
    server = await asyncpg.connect(database_url)
    try:
        await server.execute(f"create database {name} template {template}")
        try:
            yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
        finally:
            await server.execute(f"drop database {name} with (force)")
    finally:
        await server.close()


@asynccontextmanager
async def migrated_database(database_url: str) -> AsyncIterator[str]:
    """The URL of a database with all migrations and nothing else; it ends as a fresh one does. The first of a
    server is migrated, and the others are copies of it: that costs much less.
    """
    await _make_template(database_url)
    async with fresh_database(database_url, template=TEMPLATE) as url:
        await migrate.migrate(url)  # a copy has no rights of its template
        yield url


async def _make_template(database_url: str) -> None:
    server = await asyncpg.connect(database_url)
    try:
        if await server.fetchval("select exists (select from pg_database where datname = $1)", TEMPLATE):
            return
        async with fresh_database(database_url) as url:
            await migrate.migrate(url)
            made = urlsplit(url).path.removeprefix("/")
            await server.execute(f"create database {TEMPLATE} template {made}")
    finally:
        await server.close()


async def missing_migrations(database_url: str) -> list[str]:
    """The migrations that a database lacks."""
    connection = await asyncpg.connect(database_url)
    try:
        return [migration.version for migration in await migrate._missing(connection)]
    finally:
        await connection.close()


async def statements_wait_for_lock(database_url: str, count: int = 1) -> bool:
    """Whether this many statements wait for a lock."""
    connection = await asyncpg.connect(database_url)
    query = """
        select count(*) from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock'
    """
    try:
        return bool(await connection.fetchval(query) == count)
    finally:
        await connection.close()
