"""Whether it would pay to partition `runs` and `messages` by time: the same rows in one table and in months.

`python -m bench.database.partitions ROWS`, on embedded PostgreSQL. Measures what grows with a table: a run by
its id, the newest runs of a tenant, a session's messages, and the deletion of the oldest month. Real keys
have no time in them: a partitioned table would need it in every primary and foreign key, and a look-up by id
alone searches all partitions.
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg

from rejoin_adapters.embedded.postgres import PostgresServer
from rejoin_adapters.embedded.server import ServerOptions

MONTHS = 12
LOOKUPS = 300
BATCH = 500
BODY = "x" * 400
TABLES = """
create table whole (
  id text primary key, tenant_id text not null, session_id text not null, state text not null,
  created_at timestamptz not null, body text not null);
create table parted (
  id text not null, tenant_id text not null, session_id text not null, state text not null,
  created_at timestamptz not null, body text not null, primary key (id, created_at)
) partition by range (created_at);
"""
INDEXES = """
create index on {table} (tenant_id, id desc);
create index on {table} (tenant_id, session_id, created_at);
create index on {table} (created_at);
"""
FILL = """
insert into {table}
select 'run_' || lpad(to_hex(n), 12, '0'), 'ten_' || n % 50, 'ses_' || n % ($1::int / 10), 'completed',
  timestamptz '2026-01-01' + n * (interval '365 days' / $1::int), $2
from generate_series(0, $1::int - 1) n
"""


async def measure(connection: asyncpg.Connection, table: str, rows: int) -> dict[str, float]:
    """Milliseconds by what is done."""

    async def median_ms(work: Callable[[int], Awaitable[object]]) -> float:
        times = []
        for number in range(LOOKUPS):
            started = time.perf_counter()
            await work(number * 7_919 % rows)
            times.append((time.perf_counter() - started) * 1_000)
        return statistics.median(times)

    by_id = f"select body from {table} where id = 'run_' || lpad(to_hex($1::int), 12, '0')"  # noqa: S608
    newest = f"select id from {table} where tenant_id = 'ten_' || $1::int % 50 order by id desc limit 50"  # noqa: S608
    session = (
        f"select body from {table} where tenant_id = 'ten_' || $1::int % 50 "  # noqa: S608
        f"and session_id = 'ses_' || $1::int % {max(rows // 10, 1)} order by created_at"
    )
    found = {
        "a run by id": await median_ms(lambda number: connection.fetch(by_id, number)),
        "newest runs of a tenant": await median_ms(lambda number: connection.fetch(newest, number)),
        "a session": await median_ms(lambda number: connection.fetch(session, number)),
    }
    started = time.perf_counter()
    if table == "parted":
        await connection.execute("drop table parted_0")
    else:
        deleted = BATCH
        while deleted == BATCH:
            gone = await connection.execute(
                "delete from whole where id in ("
                "select id from whole where created_at < '2026-01-31 10:00' order by created_at limit 500)"
            )
            deleted = int(gone.split()[1])
    return {**found, "the oldest month, deleted": (time.perf_counter() - started) * 1_000}


async def compare(rows: int) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as place:
        server = PostgresServer(ServerOptions(Path(place), durable=True, report=lambda _: None), 0)
        await server.start()
        try:
            connection = await asyncpg.connect(server.url())
            await connection.execute(TABLES)
            for month in range(MONTHS):
                days = (month * 365 / MONTHS, (month + 1) * 365 / MONTHS)
                bounds = [f"timestamptz '2026-01-01' + interval '{one} days'" for one in days]
                start, end = [await connection.fetchval(f"select ({one})::text") for one in bounds]
                await connection.execute(
                    f"create table parted_{month} partition of parted "
                    f"for values from ('{start}') to ('{end}')"
                )
            results = {}
            for table in ("whole", "parted"):
                await connection.execute(INDEXES.format(table=table))
                await connection.execute(FILL.format(table=table), rows, BODY)
                await connection.execute(f"vacuum analyze {table}")
                results[table] = await measure(connection, table, rows)
            await connection.close()
        finally:
            await server.stop()
    print(f"{rows} rows: milliseconds                one table   12 partitions")  # noqa: T201
    for what, one in results["whole"].items():
        print(f"{what:32} {one:12.2f} {results['parted'][what]:12.2f}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(compare(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000))
