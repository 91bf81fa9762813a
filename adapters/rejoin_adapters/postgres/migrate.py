"""Applies migrations. Uses dbmate's file format and table, so that both tools can be used on one database.

The files are in the top-level folder `migrations/`; a wheel has them inside this package. Each migration is
one transaction and may run while services do: it does not wait long for a table's lock, because later
statements on the table would queue behind it. Any number of processes may migrate at once. One works; the
others poll its advisory lock, because a session that blocks on an advisory lock holds a snapshot, and a
`create index concurrently` of the working session would wait for that snapshot.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

import asyncpg
import structlog

from rejoin_adapters.postgres.database_url import parse_database_url
from rejoin_adapters.postgres.pool import Database, map_errors, wait_for_database
from rejoin_protocol.errors import Invalid, Unavailable

log = structlog.get_logger("rejoin.migrate")

LOCK = 0x52656A6F696E  # "Rejoin"
FIRST = "0001"
MARK = "message_role"
"""A type of the first migration, which files of earlier development versions with the same number did not
make. No comment on a table: a dump may leave comments out.
"""
LOCK_POLL_S = 0.1
TABLE_LOCK_S = 2.0
TABLE_LOCK_TRIES = 30
TABLE_LOCK_PAUSE_S = 1.0
_FORMAT = re.compile(r"\s*-- migrate:up\n(?P<up>.*)^-- migrate:down\n(?P<down>.*)", re.DOTALL | re.MULTILINE)


class Migration(NamedTuple):
    """One file. `version`: the number at the beginning of its name."""

    version: str
    up: str
    down: str


def _files() -> Traversable:
    return resources.files("rejoin_adapters").joinpath("migrations")


def migrations() -> list[Migration]:
    """All migrations, oldest first. Raises `ValueError` for a file without the two sections."""
    found = []
    for file in _files().iterdir():
        if file.name.endswith(".sql"):
            parts = _FORMAT.fullmatch(file.read_text(encoding="utf-8"))
            if parts is None:
                raise ValueError(f"{file.name} is not a migration")
            found.append(Migration(file.name.partition("_")[0], parts["up"], parts["down"]))
    return sorted(found)


def _grants() -> str:
    """The grants of the services' database roles, which cover tables of new migrations, too."""
    return _files().joinpath("grants", "roles.sql").read_text(encoding="utf-8")


async def check_schema(database_url: str, *, exactly: bool = False) -> None:
    """Raises `Invalid` if migrations are missing, or if those of an earlier development version made the
    database; with `exactly`, also if the database has newer ones, as during a rollout of a newer version.
    Waits for the database.
    """
    async with _connection(database_url) as connection, connection.transaction():
        applied = await _applied(connection)
    known = [migration.version for migration in migrations()]
    missing = [version for version in known if version not in applied]
    if missing:
        raise Invalid(f"the database misses migrations {', '.join(missing)}: run `rejoin migrate`")
    unknown = sorted(applied - set(known))
    if exactly and unknown:
        raise Invalid(f"the database is ahead: this version does not know migrations {', '.join(unknown)}")


async def find_missing(database: Database) -> list[str]:
    """The versions that are not applied. Raises `Unavailable`."""
    applied = await database.fetch_json(
        list[str], "select coalesce(json_agg(version), '[]') from schema_migrations"
    )
    return [migration.version for migration in migrations() if migration.version not in applied]


async def check_writes(database: Database) -> None:
    """Raises `Unavailable` if the database cannot store a new row."""
    try:
        await database.fetch_text("select check_writes()::text")
    except Unavailable as fault:
        raise Unavailable(
            "the database stores no new rows: its disk is full, or it is a standby or away; it goes on by "
            "itself as soon as there is space, unless it has stopped: then start it again"
        ) from fault


async def migrate(database_url: str) -> list[str]:
    """Apply the missing migrations and return their versions. Waits for the database. Raises `Unavailable` if
    the lock of a table is not free within the retries; migrations applied before that stay. Raises `Invalid`
    for a database of an earlier development version, which stays as it is, and for the URL of a pooler in
    transaction mode: the lock of migrations belongs to a server connection.
    """
    if parse_database_url(database_url).is_pooled:
        raise Invalid(
            "migrations need a connection to PostgreSQL itself, or by a pooler in session mode: set "
            "REJOIN_MIGRATE_DATABASE_URL"
        )
    async with _connection(database_url) as connection:
        while not await connection.fetchval("select pg_try_advisory_lock($1)", LOCK):  # noqa: ASYNC110
            await asyncio.sleep(LOCK_POLL_S)
        await connection.execute("create table if not exists schema_migrations (version varchar primary key)")
        applied = []
        for migration in await _missing(connection):
            await _apply(connection, migration)
            log.info("migrated", version=migration.version)
            applied.append(migration.version)
        await connection.execute(_grants())
        return applied  # closing the connection releases the lock


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    for _ in range(TABLE_LOCK_TRIES):
        try:
            async with connection.transaction():
                await connection.execute(f"set local lock_timeout = '{TABLE_LOCK_S}s'")
                await connection.execute(migration.up)
                await connection.execute("insert into schema_migrations values ($1)", migration.version)
        except asyncpg.LockNotAvailableError:
            log.warning("waiting_for_table", version=migration.version)
            await asyncio.sleep(TABLE_LOCK_PAUSE_S)
        else:
            return
    raise Unavailable(f"migration {migration.version} waits for a table that is always in use")


async def _applied(connection: "asyncpg.Connection[asyncpg.Record]") -> set[str]:
    """The versions that the database has. Raises `Invalid` if they are not of these files."""
    if not await connection.fetchval("select to_regclass('schema_migrations') is not null"):
        return set()
    applied = {row["version"] for row in await connection.fetch("select version from schema_migrations")}
    if FIRST in applied and not await connection.fetchval("select to_regtype($1) is not null", MARK):
        raise Invalid(
            "an earlier development version has made this database, and it cannot be migrated: create it "
            "anew (for `rejoin dev`, delete the folder of its data)"
        )
    return applied


async def _missing(connection: "asyncpg.Connection[asyncpg.Record]") -> list[Migration]:
    applied = await _applied(connection)
    return [migration for migration in migrations() if migration.version not in applied]


@asynccontextmanager
async def _connection(database_url: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    parsed = parse_database_url(database_url)

    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(parsed.url, timeout=5, statement_cache_size=parsed.statements_max)

    connection = await wait_for_database(database_url, connect)
    try:
        with map_errors():
            yield connection
    finally:
        await connection.close(timeout=5)
