"""One gateway and one runner with the demo agent for all tests of the families that need nothing else."""

from collections.abc import AsyncIterator

import pytest
from rejoin_adapters.embedded import Servers

from tests.support.clients.api_families import Speaker
from tests.support.system.local_system import LocalSystem


@pytest.fixture(scope="session")
async def house(servers: Servers) -> AsyncIterator[LocalSystem]:
    async with LocalSystem(servers.nats_url, servers.database_url) as one:
        await one.runner()
        yield one


@pytest.fixture(scope="session")
async def speaker(house: LocalSystem) -> Speaker:
    return Speaker(house, await house.gateway())


@pytest.fixture(scope="session")
async def other(house: LocalSystem) -> Speaker:
    """A client of another gateway."""
    return Speaker(house, await house.gateway())
