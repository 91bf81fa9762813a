"""Without the private hooks of OpenAI's client, the libraries' own classes give the same answers."""

from collections.abc import Iterator

import pytest
from openai import AsyncOpenAI

from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, ToolSpec
from rejoin_runner.models.providers import openai_hooks
from rejoin_runner.models.providers.provider import ProviderConnections
from tests.support.providers.protocols import CHAT, RESPONSES, ProviderProtocol
from tests.support.providers.server import FakeProvider

HI = {"id": "u1", "role": "user", "parts": [{"type": "text", "text": "hi"}]}
ANSWER = {"id": "a1", "role": "assistant", "parts": []}
WEATHER = ToolSpec("weather", "Looks.", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    openai_hooks.openai_classes.cache_clear()
    yield
    openai_hooks.openai_classes.cache_clear()


async def answer(
    speaks: ProviderProtocol, provider: FakeProvider
) -> tuple[list[ModelChunk | Done], type[AsyncOpenAI]]:
    """Call the model. Returns the answer, and the client that sent the request."""
    provider.queue(speaks.thinks)
    async with ProviderConnections(read_timeout_s=5) as connections:
        model = speaks.open(provider, connections)
        request = ModelRequest("be kind", [HI], ANSWER, [WEATHER], step=0)
        return [item async for item in model.stream(request)], openai_hooks.openai_classes()[0]


@pytest.mark.parametrize("speaks", [CHAT, RESPONSES], ids=lambda speaks: speaks.provider)
async def test_the_answer_is_the_same_without_the_hooks(
    speaks: ProviderProtocol, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, client = await answer(speaks, provider)
    assert client is not AsyncOpenAI
    openai_hooks.openai_classes.cache_clear()
    monkeypatch.setattr(openai_hooks, "ATTRIBUTES", ("openai:AsyncOpenAI._gone",))
    public, client = await answer(speaks, provider)
    assert client is AsyncOpenAI
    assert public == fast
    assert provider.requests[0] == provider.requests[1]
