"""The services' roles in a real database: everything that they do works, no role can create or drop a table,
and a runner's can neither make keys nor decide approvals.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from rejoin_adapters.memory.clock import now_utc
from rejoin_adapters.ports.webhooks import WEBHOOK_EVENTS, WebhookEndpoint, WebhookResult
from rejoin_adapters.postgres import migrate
from rejoin_adapters.postgres.audit import PostgresAuditLog
from rejoin_adapters.postgres.runs import run_store
from rejoin_adapters.postgres.session_store import PostgresSessionStore
from rejoin_adapters.postgres.tenants import PostgresTenants
from rejoin_adapters.postgres.webhooks.outbox import PostgresWebhookOutbox
from rejoin_adapters.store_types import Limits
from rejoin_protocol.ids import TenantId
from tests.support.system.local_system import LocalSystem

ROOT = Path(__file__).parents[3]
ROLES = ("rejoin_owner", "rejoin_gateway", "rejoin_runner")


@pytest.fixture(scope="module")
async def owned(database_url: str) -> AsyncIterator[tuple[str, str, str]]:
    """A database as `deploy/postgres.sh` makes it, migrated: its URLs for the owner, gateways and runners."""
    name, word = f"test_{secrets.token_hex(8)}", secrets.token_hex(8)
    script = (ROOT / "deploy" / "postgres.sh").read_text().split("<<'SQL'\n")[1].split("SQL\n")[0]
    statements = script
    for role in ("owner", "gateway", "runner"):
        statements = statements.replace(f":'{role}'", f"'{word}'")
    host = urlsplit(database_url).netloc.rpartition("@")[2]
    owner, gateway, runner = (f"postgresql://{role}:{word}@{host}/{name}" for role in ROLES)
    server = await asyncpg.connect(database_url)
    try:
        for statement in statements.replace("database rejoin", f"database {name}").strip().split(";\n"):
            await server.execute(statement)
        await migrate.migrate(owner)
        yield owner, gateway, runner
    finally:
        await server.execute(f"drop database if exists {name} with (force)")
        await server.execute(f"drop role if exists {', '.join(ROLES)}")
        await server.close()


async def test_the_services_work_with_roles_that_own_nothing(
    owned: tuple[str, str, str], nats_url: str
) -> None:
    """An answer, its history, an approval and its decision, an interrupt, limits, retention, all sweeps."""
    async with LocalSystem(nats_url, owned[1]) as system:
        base = await system.gateway()
        await system.runner(database_url=owned[2], sweep_interval_s=0.1, session_retention_s=3600.0)
        session = system.fresh("s")
        assert (await system.post(base, system.chat(session, "count 5"))).complete
        assert len((await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]) == 2
        asked = system.fresh("s")
        await system.post(base, system.chat(asked, "delete notes.txt"))
        decided = await system.post(base, await system.decision(base, asked, approved=True))
        assert decided.text == "notes.txt is deleted."
        async with await run_store.open_run_store(owned[1], pool_max=1) as store:
            tenants = PostgresTenants(store.database)
            await tenants.set_limits(TenantId("default"), Limits(running_max=2))
            told = WebhookEndpoint(
                "we_1", TenantId("default"), "https://a.example/", WEBHOOK_EVENTS, now_utc()
            )
            await PostgresWebhookOutbox(store.database).add(told, b"sealed")
        chats = [system.chat(system.fresh("s"), "count 5 every 10 ms") for _ in range(4)]
        answers = await asyncio.gather(*(system.post(base, chat) for chat in chats))
        assert all(answer.complete for answer in answers)
        async with system.http.delete(f"{base}/api/agents/{system.agent}/{session}") as response:
            assert response.status < 300
        assert (await system.get(f"{base}/health/ready")).status == 200
        async with await run_store.open_run_store(owned[2], pool_max=1) as store:
            await PostgresSessionStore(store.database).delete_untouched(3600)
            await PostgresAuditLog(store.database).forget(0)
            outbox = PostgresWebhookOutbox(store.database)
            for delivery in await outbox.claim(4, each=4, tenant=4, lease_s=60):
                await outbox.settle(delivery, WebhookResult("status 410", is_gone=True))
            [row] = await outbox.list(TenantId("default"))
            assert (row.failed, row.disabled_at is not None) == (4, True)
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await outbox.remove(TenantId("default"), "we_1")
            await store.expire_approvals()
            await store.recover_stranded(0)


@pytest.mark.parametrize(
    "statement",
    [
        "create table mine (id int)",
        "create temporary table mine (id int)",
        "create schema mine",
        "create function mine() returns int language sql as 'select 1'",
        "drop table runs",
        "alter table runs add column mine int",
        "truncate messages",
        "create index mine on runs (state)",
        "drop function claim_run",
        "alter table runs disable trigger lifecycle",
        "delete from schema_migrations",
        "create role mine",
        "set role rejoin_owner",
    ],
)
async def test_the_services_roles_change_no_schema(owned: tuple[str, str, str], statement: str) -> None:
    for url in owned[1:]:
        await assert_denied(url, statement)


AUDIT = "(tenant_id, actor, action, target) values ('default', 'nobody', 'x', 'y')"
APPROVAL = """
    insert into approvals (id, tenant_id, session_id, run_id, turn, call_id, tool, input, state, decided_at)
    select 'forged', tenant_id, session_id, id, 0, 'c', 'rm', '{}', 'approved', now() from runs limit 1
"""


@pytest.mark.parametrize(
    "statement",
    [
        "select * from api_keys",
        "update api_keys set scopes = array['chat', 'approve', 'admin']",
        "delete from api_keys",
        "insert into api_keys (id, tenant_id, hash, scopes) values ('k', 'default', '', '{admin}')",
        "update approvals set state = 'approved', decided_at = now()",
        "update approvals set state = 'denied', decided_at = now()",
        "update approvals set input = '{}'",
        "update approvals set reason = '\"yes\"'",
        APPROVAL,
        "update tenants set limits = '{}'",
        "insert into tenants (id) values ('mine')",
        "delete from tenants",
        "select * from audit_log",
        "update feedback set tenant_id = 'x'",
        "insert into early_stops (tenant_id, session_id, expires_at) values ('default', 's', now())",
    ],
)
async def test_keys_limits_and_decisions_are_the_gateways(
    owned: tuple[str, str, str], statement: str
) -> None:
    """A stolen runner credential raises no scopes and says yes to nothing."""
    await assert_denied(owned[2], statement)


@pytest.mark.parametrize(
    "statement",
    [
        f"insert into audit_log {AUDIT}",
        "update audit_log set actor = 'nobody'",
        "delete from audit_log",
        "truncate audit_log",
        "select record_audit('default', 'x', 'y', '{}')",
    ],
)
async def test_no_service_changes_the_audit_log(owned: tuple[str, str, str], statement: str) -> None:
    for url in owned[1:]:
        await assert_denied(url, statement)


async def test_the_audit_log_names_the_role_whatever_a_service_says(owned: tuple[str, str, str]) -> None:
    gateway = await asyncpg.connect(owned[1])
    try:
        await gateway.execute("select set_config('rejoin.actor', 'somebody else', false)")
        await gateway.execute("update tenants set limits = '{\"queued_max\": 7}' where id = 'default'")
        row = await gateway.fetchrow("select * from audit_log order by number desc limit 1")
        assert row is not None
        assert (row["actor"], row["role"]) == ("somebody else", "rejoin_gateway")
    finally:
        await gateway.close()


async def assert_denied(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"denied|owner"):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_migrating_again_grants_what_a_new_migration_made(owned: tuple[str, str, str]) -> None:
    owner = await asyncpg.connect(owned[0])
    service = await asyncpg.connect(owned[1])
    try:
        await owner.execute("create table later (id int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await service.fetch("select * from later")
        assert await migrate.migrate(owned[0]) == []
        assert await service.fetch("select * from later") == []
    finally:
        await service.close()
        await owner.close()
