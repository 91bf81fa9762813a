"""One gateway and one runner with the demo agent for all tests of the families that need nothing else."""

from collections.abc import AsyncIterator

import pytest
from rejoin_adapters.embedded import Servers

from tests.support.family_requests import Speaker
from tests.support.rig import Rig


@pytest.fixture(scope="session")
async def house(servers: Servers) -> AsyncIterator[Rig]:
    async with Rig(servers.nats_url, servers.database_url) as one:
        await one.runner()
        yield one


@pytest.fixture(scope="session")
async def speaker(house: Rig) -> Speaker:
    return Speaker(house, await house.gateway())


@pytest.fixture(scope="session")
async def other(house: Rig) -> Speaker:
    """A client of another gateway."""
    return Speaker(house, await house.gateway())
