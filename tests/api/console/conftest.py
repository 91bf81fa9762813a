"""A gateway that requires credentials, and keys of a tenant of each test's own."""

from collections.abc import AsyncIterator

import pytest

from rejoin.cli.api_keys import KeyCommands
from rejoin_adapters.postgres.api_keys import PostgresApiKeys
from rejoin_adapters.postgres.runs import run_store
from rejoin_protocol.ids import TenantId
from tests.support.clients.api_families import ApiClient
from tests.support.system.local_system import LocalSystem

PEPPER = "a pepper of some length"


@pytest.fixture(scope="session")
async def locked(shared_system: LocalSystem) -> ApiClient:
    """A gateway that requires credentials."""
    return ApiClient(shared_system, await shared_system.gateway(allow_anonymous=False, api_key_pepper=PEPPER))


@pytest.fixture
async def issuer(shared_system: LocalSystem) -> AsyncIterator[KeyCommands]:
    """Keys of a tenant of this test's own."""
    async with await run_store.open_run_store(shared_system.database_url, pool_max=1) as store:
        tenant = TenantId(shared_system.fresh("ten"))
        yield KeyCommands(PostgresApiKeys(store.database), tenant, PEPPER.encode())
