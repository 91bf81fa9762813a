"""Deletion by command, by user and by age removes everything that belongs to a session."""

import asyncpg
import pytest

from rejoin_adapters.ports.session_store import BYTES_BATCH_MAX, ROWS_BATCH_MAX, DeletedBatch
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from tests.support.system.databases import migrated_database
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log, wait_until
from tests.support.system.processes import run_rejoin


async def rows(system: LocalSystem, session: str) -> int:
    """Of a session and what belongs to it."""
    connection = await asyncpg.connect(system.database_url)
    try:
        count = 0
        for table, column in (
            ("sessions", "id"),
            ("messages", "session_id"),
            ("runs", "session_id"),
            ("approvals", "session_id"),
            ("artifacts", "session_id"),
        ):
            count += await connection.fetchval(
                f"select count(*) from {table} where {column} = $1",  # noqa: S608
                session,
            )
        return count
    finally:
        await connection.close()


async def test_a_session_goes_with_its_messages_runs_questions_and_logs(system: LocalSystem) -> None:
    await system.runner(sweep_interval_s=0.1)
    base, session, other = await system.gateway(), system.fresh("s"), system.fresh("s")
    run = (await system.post(base, system.chat(session, "delete notes.txt"))).headers["x-workflow-run-id"]
    await system.post(base, system.chat(other, "count 1"))
    assert (await run_rejoin(system, "sessions", "--tenant", "somebody", "delete", session))[0] != 0
    assert await rows(system, session) > 3
    code, out, err = await run_rejoin(system, "sessions", "delete", session)
    assert (code, out[:21]) == (0, "deleted, with 1 runs;"), err
    assert await rows(system, session) == 0
    assert await rows(system, other) > 2

    async def purged() -> bool:
        return await read_log(system.nats_url, run) == []

    await wait_until(purged)
    code, _, err = await run_rejoin(system, "sessions", "delete", session)
    assert code != 0
    assert f"has no session '{session}'" in err


async def test_a_run_that_is_executed_is_stopped_when_its_session_goes(system: LocalSystem) -> None:
    worker = await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    body = system.chat(session, "count 1000 every 50 ms")
    async with system.http.post(f"{base}/api/chat", json=body) as response:
        await response.content.readany()
        assert (await run_rejoin(system, "sessions", "delete", session))[0] == 0
        await wait_until(lambda: worker.active_runs == 0)


async def test_a_user_is_forgotten_and_others_are_not(system: LocalSystem) -> None:
    """With their keys, of that tenant alone."""
    pepper, user = "p" * 16, system.fresh("ada")
    await system.runner()
    base = await system.gateway(allow_anonymous=False, api_key_pepper=pepper)
    code, hers, _ = await run_rejoin(system, "keys", "create", "--user", user, REJOIN_API_KEY_PEPPER=pepper)
    assert code == 0
    _, other, _ = await run_rejoin(system, "keys", "create", "--user", "bob", REJOIN_API_KEY_PEPPER=pepper)
    sessions = [system.fresh("s"), system.fresh("s"), system.fresh("s")]
    for session, key in zip(sessions, (hers, hers, other), strict=True):
        headers = {"Authorization": f"Bearer {key.strip()}"}
        async with system.http.post(
            f"{base}/api/chat", json=system.chat(session, "count 1"), headers=headers
        ) as response:
            assert response.status == 200
            await response.read()
    code, out, _ = await run_rejoin(system, "users", "forget", "default", user)
    assert (code, out[:30]) == (0, "deleted 2 sessions and the key")
    assert [await rows(system, session) > 0 for session in sessions] == [False, False, True]
    assert (await run_rejoin(system, "users", "forget", "default", user))[1].startswith("deleted 0 sessions")
    _, keys, _ = await run_rejoin(system, "keys", "list")
    assert user not in keys
    assert "user=bob" in keys


async def test_idle_sessions_are_deleted_and_busy_and_recent_ones_are_not(
    database_url: str,
) -> None:
    """In batches, over all tenants."""
    async with migrated_database(database_url) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("""
            insert into tenants (id) values ('t');
            insert into sessions (tenant_id, id, agent, updated_at)
            select tenant, 'old-' || n, 'a', clock_timestamp() - interval '2 days'
            from unnest(array['default', 't']) tenant, generate_series(1, 80) n;
            insert into sessions (tenant_id, id, agent) values ('default', 'fresh', 'a');
            insert into messages (tenant_id, session_id, id, position, role, body)
            values ('t', 'old-1', 'u', 0, 'user', '{}');
            insert into runs (
              id, tenant_id, session_id, agent, trigger, user_message_id, answer_id, position, ready)
            values ('run_busy', 't', 'old-1', 'a', 'submit', 'u', 'm', 1, true);
        """)
        async with await run_store.open_run_store(url, pool_max=1) as store:
            threads = PostgresSessionStore(store.database)
            assert await threads.delete_untouched(3 * 24 * 3600) == (0, False)
            assert await threads.delete_untouched(24 * 3600) == (100, True)
            assert await threads.delete_untouched(24 * 3600) == (59, False)
            assert await threads.delete_untouched(24 * 3600) == (0, False)
        left = await connection.fetch("select id from sessions order by id")
        assert [row["id"] for row in left] == ["fresh", "old-1"]
        await connection.close()


async def test_a_runner_deletes_sessions_older_than_its_setting(system: LocalSystem) -> None:
    """And a run that waits for a decision goes with its session."""
    base, session = await system.gateway(), system.fresh("s")
    worker = await system.runner()
    await system.post(base, system.chat(session, "delete notes.txt"))
    await worker.maintenance.expire_sessions()
    assert await rows(system, session) > 0
    old = await asyncpg.connect(system.database_url)
    await old.execute(
        "update sessions set updated_at = clock_timestamp() - interval '400 days' where id = $1", session
    )
    await old.close()
    forgetful = await system.runner(session_retention_s=365 * 24 * 3600)
    await forgetful.maintenance.expire_sessions()
    assert await rows(system, session) == 0
    assert (await system.get(f"{base}/api/agents/{system.agent}/{session}")).status == 404


async def test_an_operator_interrupts_a_run(system: LocalSystem) -> None:
    """Running, then over."""
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    body = system.chat(session, "count 1000 every 50 ms")
    async with system.http.post(f"{base}/api/chat", json=body) as response:
        run = response.headers["x-workflow-run-id"]
        await response.content.readany()
        code, out, _ = await run_rejoin(system, "runs", "interrupt", run)
        assert (code, out) == (0, f"{run} was running: its runner stops it\n")
        assert b'"type":"abort"' in await response.read()
    code, out, _ = await run_rejoin(system, "runs", "interrupt", run)
    assert (code, out) == (0, f"{run} is cancelled: nothing to do\n")


async def test_an_operator_interrupts_a_run_that_waits(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    run = (await system.post(base, system.chat(session, "delete notes.txt"))).headers["x-workflow-run-id"]
    code, out, _ = await run_rejoin(system, "runs", "interrupt", run)
    assert (code, out) == (0, f"{run} was suspended: a runner will end it\n")

    async def over() -> bool:
        return "state     cancelled" in (await run_rejoin(system, "runs", "show", run))[1]

    await wait_until(over)


@pytest.mark.slow
async def test_no_statement_deletes_much_of_a_very_large_session(database_url: str) -> None:
    """Messages, runs, artifacts and events of one session go in batches; a second process goes on."""
    async with migrated_database(database_url) as url:
        connection = await asyncpg.connect(url)
        await connection.execute("""
            create table deletions (rows bigint, bytes bigint);
            create function count_deletion() returns trigger language plpgsql as $$
            begin
              insert into deletions select count(*), 0 from gone having count(*) > 0;
              return null;
            end $$;
            create function measure_deletion() returns trigger language plpgsql as $$
            begin
              insert into deletions select count(*), sum(size_bytes) from gone having count(*) > 0;
              return null;
            end $$;
            create trigger counted after delete on runs referencing old table as gone
              for each statement execute function count_deletion();
            create trigger measured after delete on messages referencing old table as gone
              for each statement execute function measure_deletion();
            insert into tenants (id) values ('t');
            insert into sessions (tenant_id, id, agent, user_id, updated_at)
            select 't', id, 'a', 'ann', clock_timestamp() - interval '2 days'
            from unnest(array['huge', 'small-1', 'small-2']) id;
            insert into messages (tenant_id, session_id, id, position, role, body)
            select 't', 'huge', n, n, 'user', to_json(repeat('x', 50000)) from generate_series(0, 1300) n;
            update sessions set size_bytes = (select sum(size_bytes) from messages) where id = 'huge';
            insert into runs (
              id, tenant_id, session_id, agent, trigger, user_message_id, answer_id, position, ready, state,
              attempt, ended_at)
            select 'run_' || n, 't', 'huge', 'a', 'submit', n, n, n, true, 'completed', 1, clock_timestamp()
            from generate_series(0, 1200) n;
            insert into client_events (tenant_id, id, type, session_id, created_at)
            select 't', n, 'click', 'huge', clock_timestamp() from generate_series(1, 1100) n;
        """)
        async with await run_store.open_run_store(url, pool_max=1) as store:
            first = PostgresSessionStore(store.database)
            assert await first.delete_untouched(24 * 3600) == (0, True)
            left = await connection.fetchval("select min(position) from messages where session_id = 'huge'")
            assert left > 0  # the newest messages go last, so that what is left can be read
        async with await run_store.open_run_store(url, pool_max=1) as store:  # the first one was killed
            sessions, batch = 0, DeletedBatch(0, more=True)
            while batch.more:
                batch = await PostgresSessionStore(store.database).delete_untouched(24 * 3600)
                sessions += batch.sessions
        assert sessions == 3
        left = await connection.fetchval(
            "select (select count(*) from sessions) + (select count(*) from messages)"
            " + (select count(*) from runs) + (select count(*) from client_events)"
        )
        assert left == 0
        assert 1 < await connection.fetchval("select max(rows) from deletions") <= ROWS_BATCH_MAX
        assert 0 < await connection.fetchval("select max(bytes) from deletions") <= BYTES_BATCH_MAX
        await connection.close()
