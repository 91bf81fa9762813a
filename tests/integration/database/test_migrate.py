"""Migrations on a real server, and the constraints of the schema."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from typing import Never

import asyncpg
import pytest
import pytest_asyncio
import structlog

from rejoin_adapters.postgres import migrate
from rejoin_protocol.errors import Invalid, Unavailable
from rejoin_protocol.lifecycle import TERMINAL, TRANSITIONS, State
from tests.support.system.databases import fresh_database, missing_migrations

type Connection = "asyncpg.Connection[asyncpg.Record]"


@asynccontextmanager
async def fresh_connection(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def drop(told: asyncio.Event) -> Never:
    """Instead of a log line."""
    told.set()
    raise structlog.DropEvent


@pytest_asyncio.fixture
async def empty(database_url: str) -> AsyncIterator[str]:
    async with fresh_database(database_url) as url:
        yield url


@pytest_asyncio.fixture
async def connection(empty: str) -> AsyncIterator[Connection]:
    await migrate.migrate(empty)
    connection = await asyncpg.connect(empty)
    try:
        yield connection
    finally:
        await connection.close()


async def test_every_version_is_applied_once_in_order(empty: str) -> None:
    expected = [migration.version for migration in migrate.migrations()]
    assert await missing_migrations(empty) == expected == sorted(expected)
    assert await migrate.migrate(empty) == expected
    assert await migrate.migrate(empty) == []
    assert await missing_migrations(empty) == []


async def test_many_processes_migrate_at_once_and_one_does_the_work(empty: str) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(migrate.migrate(empty)) for _ in range(5)]
    assert sorted(map(len, (task.result() for task in tasks))) == [0, 0, 0, 0, len(migrate.migrations())]


async def test_a_migration_that_fails_leaves_nothing(empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = [
        migrate.Migration("9001", "create table one (id int)", ""),
        migrate.Migration("9002", "create table two (id int); select 1 / 0", ""),
    ]
    monkeypatch.setattr(migrate, "migrations", lambda: broken)
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate.migrate(empty)
    assert await missing_migrations(empty) == ["9002"]


async def test_a_migration_waits_for_a_lock_without_blocking_other_users_of_the_table(
    connection: Connection, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It repeats its short wait for the lock until the table is free, so other statements run in between."""
    slow = migrate.Migration("9000", "alter table sessions add column another text", "")
    all_of_them = [*migrate.migrations(), slow]
    monkeypatch.setattr(migrate, "migrations", lambda: all_of_them)
    monkeypatch.setattr(migrate, "TABLE_LOCK_S", 0.05)
    monkeypatch.setattr(migrate, "TABLE_LOCK_PAUSE_S", 0.05)
    waits = asyncio.Event()
    monkeypatch.setattr(migrate, "log", structlog.wrap_logger(None, [lambda *_: drop(waits)]))
    async with asyncio.TaskGroup() as group, connection.transaction():
        await connection.execute("lock table sessions in access share mode")
        task = group.create_task(migrate.migrate(empty))
        await waits.wait()
        async with asyncio.timeout(5), fresh_connection(empty) as service:
            await service.execute("insert into sessions (tenant_id, id, agent) values ('default', 's', 'a')")
        assert not task.done()
    assert task.result() == ["9000"]


async def test_a_table_that_stays_locked_is_reported(
    connection: Connection, empty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = migrate.Migration("9000", "alter table sessions add column another text", "")
    all_of_them = [*migrate.migrations(), slow]
    monkeypatch.setattr(migrate, "migrations", lambda: all_of_them)
    for name, value in {"TABLE_LOCK_S": 0.01, "TABLE_LOCK_PAUSE_S": 0.0, "TABLE_LOCK_TRIES": 2}.items():
        monkeypatch.setattr(migrate, name, value)
    async with connection.transaction():
        await connection.execute("lock table sessions in access share mode")
        with pytest.raises(Unavailable, match="9000"):
            await migrate.migrate(empty)
    assert await missing_migrations(empty) == ["9000"]


async def test_an_older_version_works_with_a_newer_schema_and_recognises_it(empty: str) -> None:
    await migrate.migrate(empty)
    await migrate.check_schema(empty, exactly=True)
    async with fresh_connection(empty) as connection:
        await connection.execute("insert into schema_migrations values ('9999')")
    await migrate.check_schema(empty)
    with pytest.raises(Invalid, match="does not know migrations 9999"):
        await migrate.check_schema(empty, exactly=True)


async def test_a_database_of_other_migrations_with_the_same_numbers_is_refused_and_stays(empty: str) -> None:
    async with fresh_connection(empty) as connection:
        await connection.execute(
            "create table schema_migrations (version varchar primary key); create table tenants (id text); "
            "insert into schema_migrations values ('0001'), ('0047')"
        )
        for use in (migrate.migrate, migrate.check_schema):
            with pytest.raises(Invalid, match="an earlier development version has made this database"):
                await use(empty)
        assert await connection.fetchval("select count(*) from schema_migrations") == 2


async def test_a_database_that_was_restored_without_comments_is_taken(empty: str) -> None:
    await migrate.migrate(empty)
    async with fresh_connection(empty) as connection:
        await connection.execute("comment on table tenants is null; comment on domain message_role is null")
    await migrate.check_schema(empty, exactly=True)
    assert await migrate.migrate(empty) == []


async def test_going_down_leaves_an_empty_database(connection: Connection) -> None:
    for migration in reversed(migrate.migrations()):
        await connection.execute(migration.down)
    query = "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'"
    assert [row[0] for row in await connection.fetch(query)] == ["schema_migrations"]
    assert (
        await connection.fetchval("select count(*) from pg_proc where pronamespace = 'public'::regnamespace")
        == 0
    )


async def test_each_function_has_one_signature(connection: Connection) -> None:
    query = """
        select proname from pg_proc where pronamespace = 'public'::regnamespace
        group by proname having count(*) > 1
    """
    assert await connection.fetch(query) == []


async def test_the_table_is_dbmates(connection: Connection) -> None:
    query = (
        "select column_name, data_type from information_schema.columns where table_name = 'schema_migrations'"
    )
    assert [tuple(row) for row in await connection.fetch(query)] == [("version", "character varying")]


@pytest.mark.parametrize(("before", "then"), list(product(State, State)))
async def test_no_other_transition_can_be_written(database: Connection, before: State, then: State) -> None:
    await store_run(database, before)
    change = database.execute(
        "update runs set state = $1::text, ended_at = case when $2 then now() end", then, then in TERMINAL
    )
    if before == then or (before, then) in {(old, new) for (old, _), new in TRANSITIONS.items()}:
        await change
    else:
        with pytest.raises(asyncpg.PostgresError, match=f"a {before} run cannot become {then}"):
            await change


@pytest.mark.parametrize(
    ("assignment", "constraint"),
    [
        ("state = 'exploded'", "runs_state_check"),
        ("state = 'completed'", "ended_is_terminal"),
        ("ended_at = now()", "ended_is_terminal"),
        ("ready = false", "waiting_is_queued"),
        ("attempt = 0", "begun_was_claimed"),
        ("state = 'suspended', interrupted_at = now()", "interrupted_goes_on"),
        ("state = 'completed', ended_at = now(), due_at = now()", "due_is_ready"),
        ("state = 'completed', ended_at = now(), context = 'c'", "ended_keeps_no_context"),
        ("steers = 'other'", "steering_waits"),
    ],
)
async def test_a_run_is_never_half_in_a_state(database: Connection, assignment: str, constraint: str) -> None:
    await store_run(database, State.RUNNING)
    with pytest.raises(asyncpg.CheckViolationError, match=constraint):
        await database.execute(f"update runs set {assignment}")  # noqa: S608


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        ("ready and state in ('queued', 'running')", "runs_one_at_a_time"),
        ("state = 'queued' and not taken", "runs_busy"),
        ("state = 'queued' and not ready", "runs_waiting"),
        ("session_id = 's' and state in ('queued', 'running')", "runs_busy"),
        ("session_id = 's' and position < 9 and ended_at is null", "runs_tenant_id_session_id_position_key"),
    ],
)
async def test_the_busy_runs_of_a_tenant_are_found_among_few_also_by_plans_for_empty_tables(
    database: Connection, condition: str, index: str
) -> None:
    """A connection keeps such a plan until the tables are analyzed, and would read all runs of the tenant."""
    await database.execute("set local enable_seqscan = off")
    query = f"explain select from runs where tenant_id = 't' and {condition}"
    assert f" {index} " in "".join([row[0] for row in await database.fetch(query)])


async def test_a_run_ends_by_indexes_whatever_its_connection_has_called_while_tables_were_small(
    connection: Connection,
) -> None:
    await connection.execute("""
        insert into sessions (tenant_id, id, agent)
        select 'default', 's' || n, 'a' from generate_series(1, 40) n;
        insert into runs (
          id, tenant_id, session_id, agent, trigger, user_message_id, answer_id, position, state, ready,
          attempt)
        select 'run' || n, 'default', 's' || n, 'a', 'submit', 'm', 'w', 1, 'running', true, 1
        from generate_series(1, 40) n;
        analyze
    """)
    calls = (
        "steering_of('run1', 1, '{}')",
        "interrupt_run('default', null, 's1', null, null, null)",
        "repeated_run('default', null, 's1', 'a', 'key', 'm', null)",
        "current_run('default', 's1')",
        "session_busy('default', 's1')",
        "promote_waiting(10)",
        "expire_approvals(10)",
    )
    for call in calls * 7:  # after five calls, a plan may stay
        await connection.execute(f"select {call}")
    scans = """
        select sum(seq_scan) from pg_stat_xact_user_tables
        where relname in ('approvals', 'messages', 'runs', 'sessions', 'tenants')
    """
    async with connection.transaction():
        before = await connection.fetchval(scans)
        await connection.execute("select end_run('run2', 1, 'completed', '{}', null, 1, 1)")
        assert await connection.fetchval(scans) == before


async def test_two_runs_of_a_session_are_never_ready_at_once(database: Connection) -> None:
    await store_run(database, State.RUNNING)
    with pytest.raises(asyncpg.UniqueViolationError, match="runs_one_at_a_time"):
        await store_run(database, State.QUEUED, position=3)


async def test_deleting_a_session_deletes_all_that_is_in_it(database: Connection) -> None:
    await store_run(database, State.SUSPENDED)
    await database.execute("""
        insert into messages (tenant_id, session_id, id, position, role, body)
        values ('default', 's', 'm', 0, 'user', '{}');
        insert into approvals (id, tenant_id, session_id, run_id, turn, call_id, tool, input)
        values ('a', 'default', 's', 'run_1', 0, 'c', 't', '{}');
        insert into artifacts (tenant_id, id, session_id, type, body) values ('default', 'x', 's', 't', '{}')
    """)
    await database.execute("delete from sessions")
    assert await database.fetchval("select run_id from purges") == "run_1"
    for table in ("messages", "runs", "approvals", "artifacts"):
        assert await database.fetchval(f"select count(*) from {table}") == 0  # noqa: S608


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def migrated(database_url: str) -> AsyncIterator[Connection]:
    async with fresh_database(database_url) as url:
        await migrate.migrate(url)
        connection = await asyncpg.connect(url)
        try:
            yield connection
        finally:
            await connection.close()


@pytest_asyncio.fixture
async def database(migrated: Connection) -> AsyncIterator[Connection]:
    """A migrated database whose changes are undone."""
    transaction = migrated.transaction()
    await transaction.start()
    try:
        yield migrated
    finally:
        await transaction.rollback()


async def store_run(database: Connection, state: State, *, position: int = 1) -> None:
    await database.execute(
        """
        insert into sessions (tenant_id, id, agent) values ('default', 's', 'a') on conflict do nothing
        """
    )
    await database.execute(
        """
        insert into runs (
          id, tenant_id, session_id, agent, trigger, user_message_id, answer_id, position, state, ready,
          attempt, ended_at)
        values (
          'run_' || $1::int, 'default', 's', 'a', 'submit', 'm', 'n', $1, $2, true,
          1, case when $3 then now() end)
        """,
        position,
        state,
        state in TERMINAL,
    )


async def test_a_service_refuses_a_database_that_is_not_migrated_in_one_sentence(database_url: str) -> None:
    async with fresh_database(database_url) as url:
        with pytest.raises(Invalid, match="run `rejoin migrate`"):
            await migrate.check_schema(url)
        await migrate.migrate(url)
        await migrate.check_schema(url)
