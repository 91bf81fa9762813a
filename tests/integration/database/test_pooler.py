"""PostgreSQL behind PgBouncer, in both modes, with its default settings."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from rejoin_adapters.actor import Actor, act_as
from rejoin_adapters.postgres.migrate import check_schema, migrate
from rejoin_adapters.postgres.pool import open_database
from rejoin_adapters.postgres.runs.run_store import open_run_store
from rejoin_adapters.store_types import Limits
from rejoin_protocol.errors import Invalid, Limited, RejoinError, Unavailable
from tests.support.data.store_session import Chat
from tests.support.system.databases import fresh_database, migrated_database
from tests.support.system.local_system import LocalSystem
from tests.support.system.pooler import pooler
from tests.support.system.processes import free_ports

MODES = ["session", "transaction"]


@pytest_asyncio.fixture
async def direct(database_url: str) -> AsyncIterator[str]:
    """A migrated database, without a pooler."""
    async with migrated_database(database_url) as url:
        yield url


@pytest_asyncio.fixture(params=MODES)
async def pooled(request: pytest.FixtureRequest, tmp_path: Path, direct: str) -> AsyncIterator[str]:
    """The same database behind a pooler."""
    async with pooler(tmp_path, direct, request.param) as url:
        yield url


async def test_statements_at_once_share_few_server_connections(pooled: str) -> None:
    """Each is prepared anew, or in a connection that stays the same: no statement meets another's."""
    async with await open_database(pooled, pool_max=8) as database:

        async def ask(number: int) -> bool:
            added = "+ 1 " * (number % 7)  # so that there are several statements
            query = f"select ($1::bigint {added})::text from pg_sleep(0.001 * ($1 % 3))"  # noqa: S608
            return await database.fetch_text(query, number) == str(number + number % 7)

        assert all(await asyncio.gather(*(ask(number) for number in range(400))))


async def test_a_pooler_that_the_url_does_not_name_is_named_by_the_error(tmp_path: Path, direct: str) -> None:
    async with (
        pooler(tmp_path, direct, "transaction") as url,
        await open_database(url.replace("&pgbouncer=true", ""), pool_max=8) as database,
    ):
        query = "select $1::bigint::text from pg_sleep(0.001 * ($1 % 3))"
        asked = [database.fetch_text(query, number) for number in range(400)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    faults = [str(answer) for answer in answers if isinstance(answer, Exception)]
    assert any("add pgbouncer=true" in fault for fault in faults), faults


async def test_each_transaction_has_its_settings_and_leaves_none(pooled: str, direct: str) -> None:
    """Also if the database's default is another isolation, and for the actor of the audit log."""
    connection = await asyncpg.connect(direct)
    name = await connection.fetchval("select current_database()")
    await connection.execute(f"alter database {name} set default_transaction_isolation = serializable")
    await connection.close()
    query = """select concat_ws(' ', current_setting('transaction_isolation'),
        current_setting('rejoin.running_max', true), current_setting('rejoin.actor', true))"""
    async with await open_database(pooled, settings={"rejoin.running_max": "7"}) as database:
        answers = await asyncio.gather(*(database.fetch_text(query) for _ in range(20)))
        assert {answer and answer.strip() for answer in answers} == {"read committed 7"}
        act_as(Actor("tester"))
        try:
            assert await database.fetch_text_as_actor(query) == "read committed 7 tester"
        finally:
            act_as(None)
        assert (await database.fetch_text(query) or "").strip() == "read committed 7"


async def test_refusals_of_the_sql_functions_leave_the_connection_usable(pooled: str) -> None:
    async with await open_run_store(pooled, pool_max=1, limits=Limits(running_max=1, queued_max=1)) as store:
        await Chat(store).send("fits")
        for _ in range(3):
            with pytest.raises(Limited):
                await Chat(store).send("one too many")
        await store.ping()


@pytest.mark.feature("F110")
async def test_a_chat_runs_behind_the_pooler(pooled: str, nats_url: str) -> None:
    """Twenty sessions at once; two gateways and two runners with a pool of their own each."""
    async with LocalSystem(nats_url, pooled) as system:
        bases = [await system.gateway(), await system.gateway()]
        for _ in range(2):
            await system.runner()
        posts = [system.post(bases[n % 2], system.chat(system.fresh("s"), "count 5")) for n in range(20)]
        for answer in await asyncio.gather(*posts):
            assert (answer.status, answer.complete, answer.text) == (200, True, "1 2 3 4 5")


async def test_the_schema_is_checked_through_the_pooler(pooled: str) -> None:
    for _ in range(5):
        await check_schema(pooled, exactly=True)


async def test_migrations_need_another_url_behind_a_pooler_in_transaction_mode(
    tmp_path: Path, database_url: str
) -> None:
    """The lock of migrations belongs to a server connection. A pooler in session mode keeps it."""
    async with fresh_database(database_url) as url:
        async with pooler(tmp_path, url, "transaction") as pooled:
            with pytest.raises(Invalid, match="set REJOIN_MIGRATE_DATABASE_URL"):
                await migrate(pooled)
        async with pooler(tmp_path, url, "session") as kept:
            assert await migrate(kept)
            assert await migrate(kept) == []


async def test_a_parameter_that_the_pooler_refuses_is_named_at_once(tmp_path: Path, direct: str) -> None:
    """It was waited for, as if the database were away."""
    async with pooler(tmp_path, direct, "session") as url:
        with pytest.raises(RejoinError, match="refuses the connection: unsupported startup parameter: jit"):
            await open_database(f"{url}&jit=off")
        with pytest.raises(RejoinError, match=r"refuses the connection: .*\"nonsense\""):
            await open_database(f"{direct}&nonsense=1")


async def test_a_pooler_that_comes_back_is_found_again(tmp_path: Path, direct: str) -> None:
    """A statement whose connection is gone is executed again on a new one."""
    port = free_ports(1)
    async with pooler(tmp_path, direct, "transaction", port) as url:
        database = await open_database(url)
    async with database:
        with pytest.raises(Unavailable):
            await database.fetch_text("select 'gone'")
        async with pooler(tmp_path, direct, "transaction", port):
            assert await database.fetch_text("select 'back'") == "back"
