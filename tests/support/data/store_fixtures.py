"""Fixtures of the contract tests: the ports of the database, by their adapters and by their doubles."""

from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from rejoin_adapters.memory.database.run_store import MemoryRunStore
from rejoin_adapters.ports.run_store import RunStore
from rejoin_adapters.postgres.runs.run_store import PostgresRunStore, open_run_store
from tests.support.data.database_ports import DatabasePorts, memory_ports, postgres_ports
from tests.support.data.store_session import Chat
from tests.support.system.databases import migrated_database


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "postgres"])
async def stores(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Sequence[RunStore]]:
    """The same store, seen from three processes."""
    if request.param == "memory":
        yield [MemoryRunStore()] * 3
        return
    async with (
        migrated_database(database_url) as url,
        await open_run_store(url) as one,
        await open_run_store(url) as two,
        await open_run_store(url) as three,
    ):
        yield [one, two, three]


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "postgres"])
async def ports(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[DatabasePorts]:
    """All ports of one database, in memory and in PostgreSQL."""
    if request.param == "memory":
        yield memory_ports()
        return
    async with migrated_database(database_url) as url, await open_run_store(url) as store:
        yield postgres_ports(store)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def postgres(database_url: str) -> AsyncIterator[PostgresRunStore]:
    """The adapter alone, for tests that look into the database."""
    async with migrated_database(database_url) as url, await open_run_store(url) as one:
        yield one


@pytest.fixture
def store(stores: Sequence[RunStore]) -> RunStore:
    return stores[0]


@pytest.fixture
def chat(store: RunStore) -> Chat:
    return Chat(store)
