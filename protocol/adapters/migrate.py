"""Brings the schema up to date: dbmate's file format and its table, so that either tool can go on.

The files are the package `migrations`. Each is one transaction. Any number of processes may migrate at once:
one works, the others wait for its lock by asking for it again and again, because a session that blocks on
an advisory lock holds a snapshot, for which a `create index concurrently` of the working one would wait.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import NamedTuple

import asyncpg
import structlog

from protocol.adapters.database import seam, wait_for
from protocol.errors import Invalid

log = structlog.get_logger("rejoin.migrate")

LOCK = 0x52656A6F696E  # "Rejoin"
LOCK_POLL_S = 0.1
_FORMAT = re.compile(r"\s*-- migrate:up\n(?P<up>.*)^-- migrate:down\n(?P<down>.*)", re.DOTALL | re.MULTILINE)


class Migration(NamedTuple):
    """One file. `version` is the number that its name begins with."""

    version: str
    up: str
    down: str


def migrations() -> list[Migration]:
    """All of them, oldest first. Raises `ValueError` for a file without the two sections."""
    found = []
    for file in resources.files("migrations").iterdir():
        if file.name.endswith(".sql"):
            parts = _FORMAT.fullmatch(file.read_text(encoding="utf-8"))
            if parts is None:
                raise ValueError(f"{file.name} is not a migration")
            found.append(Migration(file.name.partition("_")[0], parts["up"], parts["down"]))
    return sorted(found)


async def pending(database_url: str) -> list[str]:
    """The versions that are still to be applied. Waits for the database."""
    async with _connection(database_url) as connection:
        return [migration.version for migration in await _missing(connection)]


async def check(database_url: str) -> None:
    """Raises `Invalid` if the database is not what this version of the code needs. Waits for the database."""
    missing = await pending(database_url)
    if missing:
        raise Invalid(f"the database misses migrations {', '.join(missing)}: run `rejoin migrate`")


async def migrate(database_url: str) -> list[str]:
    """Apply what is missing, and return its versions. Waits for the database."""
    async with _connection(database_url) as connection:
        while not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):  # noqa: ASYNC110
            await asyncio.sleep(LOCK_POLL_S)
        await connection.execute("create table if not exists schema_migrations (version varchar primary key)")
        applied = []
        for migration in await _missing(connection):
            async with connection.transaction():
                await connection.execute(migration.up)
                await connection.execute("insert into schema_migrations values ($1)", migration.version)
            log.info("migrated", version=migration.version)
            applied.append(migration.version)
        return applied  # closing the connection gives the lock back


async def _missing(connection: "asyncpg.Connection[asyncpg.Record]") -> list[Migration]:
    known: set[str] = set()
    if await connection.fetchval("select to_regclass('schema_migrations') is not null"):
        known = {row["version"] for row in await connection.fetch("select version from schema_migrations")}
    return [migration for migration in migrations() if migration.version not in known]


@asynccontextmanager
async def _connection(database_url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    connection = await wait_for(database_url, lambda: asyncpg.connect(database_url, timeout=5))
    try:
        with seam():
            yield connection
    finally:
        await connection.close(timeout=5)
