"""The application supplies each tenant's provider key, at every call, for all agents of a run."""

import asyncio

import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import ModelError, ModelKeyLookup
from rejoin_runner.models.providers import provider_call
from rejoin_runner.models.providers.provider import ProviderConnections, open_model
from tests.integration.providers.test_provider_streams import asking
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, text
from tests.support.system.local_system import LocalSystem


async def test_a_tenants_key_pays_for_all_agents_of_its_runs(
    system: LocalSystem, provider: FakeProvider
) -> None:
    """Also for those that are reached, unless they have keys of their own; None is the process's key."""
    asked: list[tuple[str, str]] = []

    async def keys(tenant: str, service: str) -> str | None:
        asked.append((tenant, service))
        await asyncio.sleep(0)
        return f"key-of-{tenant}" if len(asked) < 3 else None

    def transfer(to: str) -> ProviderReply:
        return ProviderReply(
            [call(0, "{}", name=f"transfer_to_{to}", call_id="c1"), delta(finish="tool_calls")]
        )

    own = Agent(name="own", model="openai:fake", model_keys=lambda *_: "its-own", handoffs=["last"])
    last = Agent(name="last", model="openai:fake")
    billing = Agent(name="billing", model="openai:fake", handoffs=[own, last])
    agent = Agent(name=system.agent, model="openai:fake", handoffs=[billing], model_keys=keys)
    await system.runner([agent], model_base_url=provider.base_url, model_api_key="the-process")
    provider.queue(transfer("billing"), transfer("own"), transfer("last"), text("Done."))
    answer = await system.post(await system.gateway(), system.chat(system.fresh("s"), "go"))
    assert answer.text == "Done."
    assert provider.keys == [
        "Bearer key-of-default",
        "Bearer key-of-default",
        "Bearer its-own",
        "Bearer the-process",
    ]
    assert asked == [("default", "openai")] * 3


def fails(tenant: str, service: str) -> str | None:
    raise ValueError(f"sk-12345678 of {tenant} with {service}")


async def hangs(tenant: str, service: str) -> str | None:
    del tenant, service
    await asyncio.Event().wait()
    return None


def wrong(tenant: str, service: str) -> str | None:
    del tenant, service
    key: object = 7
    return key  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (fails, "the API key for openai could not be looked up"),
        (hangs, "the API key for openai could not be looked up"),
        (wrong, "the API key for openai is no text"),
        (lambda *_: "", "there is no API key for openai"),
        (lambda *_: None, "there is no API key for openai"),
    ],
)
async def test_a_key_that_cannot_be_had_is_the_models_failure_and_sends_nothing(
    keys: ModelKeyLookup, said: str, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no other key is sent in its place, not even one that the environment has."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-from-elsewhere")
    monkeypatch.setattr(provider_call, "KEY_TIMEOUT_S", 0.05)
    async with ProviderConnections() as connections:
        model = open_model("openai:fake", connections, tenant_key_lookup=keys)
        with pytest.raises(ModelError) as caught:
            await anext(model.stream(asking()))
    assert caught.value.detail == said
    assert provider.requests == []
