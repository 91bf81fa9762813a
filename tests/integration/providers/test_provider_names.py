"""Every provider that speaks OpenAI's protocol under its own name is called once, at its own address."""

from collections.abc import AsyncIterator
from typing import override

import httpx2
import pytest

from rejoin_runner.models.model import Usage, build_question, collect_answer
from rejoin_runner.models.providers.provider import (
    NEEDS_BASE_URL,
    NO_EXTRA_PACKAGE,
    ProviderConnections,
    open_model,
)
from rejoin_runner.models.providers.provider_call import RESPONSES
from tests.support.providers import responses_frames
from tests.support.providers.server import FakeProvider, text

SAID = responses_frames.response(
    responses_frames.text("msg_1", "Hel", "lo"), sums=responses_frames.usage(3, 2)
)


class Elsewhere(httpx2.AsyncBaseTransport):
    """Sends every request to the fake provider, and records the address that it was for."""

    def __init__(self, address: str) -> None:
        self.address = httpx2.URL(address)
        self.wanted: list[httpx2.URL] = []
        self._inner = httpx2.AsyncHTTPTransport()

    @override
    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.wanted.append(request.url)
        request.url = self.address.copy_with(path=f"/v1/{request.url.path.rpartition('/')[2]}")
        return await self._inner.handle_async_request(request)

    @override
    async def aclose(self) -> None:
        await self._inner.aclose()


class Diverted(ProviderConnections):
    """Connections that lead elsewhere."""

    def __init__(self, transport: Elsewhere) -> None:
        super().__init__()
        self._client = httpx2.AsyncClient(transport=transport)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@pytest.mark.parametrize("name", NO_EXTRA_PACKAGE)
async def test_a_compatible_provider_answers_by_its_name(provider: FakeProvider, name: str) -> None:
    """It is asked over our connections, at an address of its own, with its key; the answer is counted."""
    speaks_responses = name in RESPONSES
    provider.queue(SAID if speaks_responses else text("Hel", "lo"))
    there = Elsewhere(provider.address)
    own = "http://own.example/v1" if name in NEEDS_BASE_URL else None
    async with Diverted(there) as connections:
        model = open_model(f"{name}:openai/gpt-5", connections, base_url=own, api_key=f"key-of-{name}")
        assert await collect_answer(model, build_question("Be kind.", "hi")) == ("Hello", Usage(3, 2))
    [wanted] = there.wanted
    assert wanted.path.endswith("/responses" if speaks_responses else "/chat/completions")
    assert (wanted.host == "own.example") is (own is not None)
    assert wanted.host != "api.openai.com"
    assert provider.keys == [f"Bearer key-of-{name}"]
    [request] = provider.requests
    assert request["input" if speaks_responses else "messages"][-1]["content"] == "hi"
    assert request.get("store") is (
        False if speaks_responses else None
    )  # a provider that stores answers is asked not to
