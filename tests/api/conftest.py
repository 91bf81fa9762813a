"""One gateway and one runner with the demo agent, shared by all tests of the route families that need nothing
else.
"""

from collections.abc import AsyncIterator

import pytest

from rejoin_adapters.embedded import Servers
from tests.support.clients.api_families import ApiClient
from tests.support.system.local_system import LocalSystem


@pytest.fixture(scope="session")
async def shared_system(servers: Servers) -> AsyncIterator[LocalSystem]:
    async with LocalSystem(servers.nats_url, servers.database_url) as one:
        await one.runner()
        yield one


@pytest.fixture(scope="session")
async def client(shared_system: LocalSystem) -> ApiClient:
    return ApiClient(shared_system, await shared_system.gateway())


@pytest.fixture(scope="session")
async def other(shared_system: LocalSystem) -> ApiClient:
    """A client of a second gateway."""
    return ApiClient(shared_system, await shared_system.gateway())
