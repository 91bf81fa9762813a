"""Clients of OpenAI's APIs at a gateway with the demo agent."""

from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI

from tests.support.clients.openai_client import client_of, gateway
from tests.support.system.local_system import LocalSystem


@pytest.fixture
async def base(system: LocalSystem) -> str:
    await system.runner()
    return await gateway(system)


@pytest.fixture
async def client(base: str) -> AsyncIterator[AsyncOpenAI]:
    async with client_of(base) as one:
        yield one


@pytest.fixture
async def strict_client(system: LocalSystem) -> AsyncIterator[AsyncOpenAI]:
    """A client of a gateway that refuses what has no effect."""
    await system.runner()
    async with client_of(await gateway(system, openai_strict=True)) as one:
        yield one
