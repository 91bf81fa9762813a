"""A database of these tests' own: every runner on a database sends what is due there."""

from collections.abc import AsyncIterator

import pytest

from rejoin_adapters.embedded import Servers
from tests.support.system.databases import migrated_database
from tests.support.system.local_system import LocalSystem


@pytest.fixture(scope="session")
async def webhook_database(servers: Servers) -> AsyncIterator[str]:
    async with migrated_database(servers.database_url) as url:
        yield url


@pytest.fixture
async def system(servers: Servers, webhook_database: str) -> AsyncIterator[LocalSystem]:
    """Gateways and runners in this process, apart from those of other tests."""
    async with LocalSystem(servers.nats_url, webhook_database) as one:
        yield one
