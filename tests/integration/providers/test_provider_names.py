"""Every provider that speaks OpenAI's protocol under its own name is called once, at its own address."""

from collections.abc import AsyncIterator

import pytest

from rejoin_runner.models.chat_completions.services import NEEDS_BASE_URL
from rejoin_runner.models.model import Usage, build_question, collect_answer
from rejoin_runner.models.providers.library_call import RESPONSES
from rejoin_runner.models.providers.provider import NO_EXTRA_PACKAGE, open_model
from tests.support.providers import responses_frames
from tests.support.providers.diversion import Diverted
from tests.support.providers.server import FakeProvider, text

SAID = responses_frames.response(
    responses_frames.text("msg_1", "Hel", "lo"), sums=responses_frames.usage(3, 2)
)


@pytest.fixture
async def provider() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as running:
        yield running


@pytest.mark.parametrize("name", NO_EXTRA_PACKAGE)
async def test_a_compatible_provider_answers_by_its_name(provider: FakeProvider, name: str) -> None:
    """It is asked over our connections, at an address of its own, with its key; the answer is counted."""
    speaks_responses = name in RESPONSES
    provider.queue(SAID if speaks_responses else text("Hel", "lo"))
    own = "http://own.example/v1" if name in NEEDS_BASE_URL else None
    async with Diverted(provider.address) as connections:
        model = open_model(f"{name}:openai/gpt-5", connections, base_url=own, api_key=f"key-of-{name}")
        assert await collect_answer(model, build_question("Be kind.", "hi")) == ("Hello", Usage(3, 2))
    [wanted] = connections.wanted
    assert wanted.path.endswith("/responses" if speaks_responses else "/chat/completions")
    assert (wanted.host == "own.example") is (own is not None)
    assert wanted.host != "api.openai.com"
    assert provider.keys == [f"key-of-{name}" if name == "azure" else f"Bearer key-of-{name}"]
    [request] = provider.requests
    assert request["input" if speaks_responses else "messages"][-1]["content"] == "hi"
    assert request.get("store") is (
        False if speaks_responses else None
    )  # a provider that stores answers is asked not to
