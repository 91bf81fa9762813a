"""The fixture of the contract tests of a run's log: by its adapter and by its double."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.ports.run_log import RunLog


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["memory", "jetstream"])
async def log(request: pytest.FixtureRequest, nats_url: str) -> AsyncIterator[RunLog]:
    """The log of runs, as one process has it."""
    if request.param == "memory":
        yield MemoryRunLog()
        return
    async with nats_connection.connect(nats_url, "tests") as one:
        yield JetStreamRunLog(one, one)
