"""The services' role in a real database: everything that they do works, and the role can neither create nor
drop a table.
"""

import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from rejoin_adapters.postgres import migrate
from tests.support.system.local_system import LocalSystem

ROOT = Path(__file__).parents[3]
ROLES = ("rejoin_owner", "rejoin_service")


@pytest.fixture(scope="module")
async def owned(database_url: str) -> AsyncIterator[tuple[str, str]]:
    """A database as `deploy/postgres.sh` makes it, migrated: its URL for the owner, and for the services."""
    name, word = f"test_{secrets.token_hex(8)}", secrets.token_hex(8)
    script = (ROOT / "deploy" / "postgres.sh").read_text().split("<<'SQL'\n")[1].split("SQL\n")[0]
    statements = script.replace(":'owner'", f"'{word}'").replace(":'service'", f"'{word}'")
    host = urlsplit(database_url).netloc.rpartition("@")[2]
    owner, service = (f"postgresql://{role}:{word}@{host}/{name}" for role in ROLES)
    server = await asyncpg.connect(database_url)
    try:
        for statement in statements.replace("database rejoin", f"database {name}").strip().split(";\n"):
            await server.execute(statement)
        await migrate.migrate(owner)
        yield owner, service
    finally:
        await server.execute(f"drop database if exists {name} with (force)")
        await server.execute(f"drop role if exists {', '.join(ROLES)}")
        await server.close()


async def test_the_services_work_with_a_role_that_owns_nothing(owned: tuple[str, str], nats_url: str) -> None:
    """An answer, its history, an approval and its decision, an interrupt."""
    async with LocalSystem(nats_url, owned[1]) as system:
        base = await system.gateway()
        await system.runner()
        session = system.fresh("s")
        assert (await system.post(base, system.chat(session, "count 5"))).complete
        assert len((await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]) == 2
        asked = system.fresh("s")
        await system.post(base, system.chat(asked, "delete notes.txt"))
        decided = await system.post(base, await system.decision(base, asked, approved=True))
        assert decided.text == "notes.txt is deleted."
        assert (await system.get(f"{base}/health/ready")).status == 200


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
        "insert into run_transitions select * from run_transitions limit 1",
        "delete from schema_migrations",
        "create role mine",
        "set role rejoin_owner",
    ],
)
async def test_the_services_role_changes_no_schema(owned: tuple[str, str], statement: str) -> None:
    connection = await asyncpg.connect(owned[1])
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match=r"denied|owner"):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_migrating_again_grants_what_a_new_migration_made(owned: tuple[str, str]) -> None:
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
