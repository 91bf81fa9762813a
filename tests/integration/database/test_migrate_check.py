"""`rejoin migrate --check` tells whether this version fits the database and changes nothing."""

import asyncio
import os
import sys

import asyncpg

from rejoin_adapters.postgres import migrate
from tests.support.system.databases import fresh_database, missing_migrations


async def check(database_url: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rejoin", "migrate", "--check"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"REJOIN_NATS_URL": "nats://127.0.0.1:1", "REJOIN_DATABASE_URL": database_url},
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_check_fails_unless_the_schema_is_exactly_this_version(database_url: str) -> None:
    async with fresh_database(database_url) as url:
        code, said = await check(url)
        assert (code, said.count("\n")) == (1, 1)
        assert said.endswith("run `rejoin migrate`\n")
        assert len(await missing_migrations(url)) == len(migrate.migrations())
        await migrate.migrate(url)
        assert await check(url) == (0, "up to date\n")
        connection = await asyncpg.connect(url)
        await connection.execute("insert into schema_migrations values ('9999')")
        await connection.close()
        code, said = await check(url)
        assert (code, said.count("\n")) == (1, 1)
        assert "ahead" in said
