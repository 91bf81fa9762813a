"""What the examples' tests share."""

from collections.abc import AsyncIterator

import pytest

from tests.fake_provider import FakeProvider


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    """What stands in for the provider of the examples' models."""
    async with FakeProvider() as one:
        yield one
