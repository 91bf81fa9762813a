"""Real servers for the whole suite: one private NATS and one PostgreSQL, started once, ended with it."""

from collections.abc import AsyncIterator

import pytest

from protocol.adapters import broker, migrate, streams
from protocol.adapters.embedded import Servers, embedded
from tests.rig import Rig


@pytest.fixture(scope="session")
async def servers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Servers]:
    async with embedded(tmp_path_factory.mktemp("servers"), durable=False) as running:
        async with broker.connect(running.nats_url, "tests") as connection:
            await streams.declare(connection, streams.Settings())
        await migrate.migrate(running.database_url)
        yield running


@pytest.fixture(scope="session")
def database_url(servers: Servers) -> str:
    return servers.database_url


@pytest.fixture(scope="session")
def nats_url(servers: Servers) -> str:
    return servers.nats_url


@pytest.fixture
async def rig(servers: Servers) -> AsyncIterator[Rig]:
    """Gateways and runners in this process, over the real servers; each test has an agent name of its own."""
    async with Rig(servers.nats_url, servers.database_url) as one:
        yield one
