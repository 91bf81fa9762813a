"""A run whose model is a provider on loopback: text, a tool, and what the provider receives."""

import msgspec
import pytest

from rejoin_runner.demo import build_demo_agent
from tests.support.providers.server import (
    FakeProvider,
    ProviderReply,
    call,
    delta,
    failure,
    text,
    usage,
)
from tests.support.system.local_system import Answer, LocalSystem


async def serve(system: LocalSystem, provider: FakeProvider) -> str:
    """A gateway, and a runner whose agent uses this provider, as with `REJOIN_MODEL=openai:…`."""
    agent = msgspec.structs.replace(build_demo_agent("openai:test-model"), name=system.agent)
    await system.runner([agent], model_base_url=provider.base_url, model_api_key="secret-key")
    return await system.gateway()


async def test_a_providers_tool_call_is_run_and_its_result_sent_back(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        arguments = call(0, '{"city": "Oslo"}', name="weather", call_id="call_a")
        provider.queue(
            ProviderReply([arguments, delta(finish="tool_calls"), usage(7, 3)]), text("It is ", "cold.")
        )
        answer = await system.post(base, system.chat(session, "How is the weather in Oslo?"))
        assert answer.complete
        assert answer.text == "It is cold."
        kinds = [chunk["type"] for chunk in answer.chunks]
        assert kinds.index("tool-input-available") < kinds.index("tool-output-available")
        [user, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
        [part] = [part for part in message["parts"] if part["type"] == "tool-weather"]
        assert part["input"] == {"city": "Oslo"}
        told = provider.requests[1]["messages"]
        assert [one["role"] for one in told] == ["system", "user", "assistant", "tool"]
        assert told[1]["content"] == user["parts"][0]["text"]
        assert told[3]["content"] == part["output"]
        assert set(provider.keys) == {"Bearer secret-key"}


@pytest.mark.feature("F22")
async def test_the_usage_of_a_run_is_the_sum_of_what_the_provider_counted(system: LocalSystem) -> None:
    """Streamed as metadata and kept with the message."""
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        arguments = call(0, '{"city": "Oslo"}', name="weather", call_id="call_a")
        provider.queue(
            ProviderReply([arguments, delta(finish="tool_calls"), usage(7, 3)]), text("It is ", "cold.")
        )
        answer = await system.post(base, system.chat(session, "How is the weather in Oslo?"))
        told = [chunk["messageMetadata"]["usage"] for chunk in answer.chunks if "messageMetadata" in chunk]
        assert told[-1]["inputTokens"] == 7 + 3
        assert told[-1]["outputTokens"] == 3 + 2
        [_, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
        assert message["metadata"]["usage"] == told[-1]


async def test_each_step_of_a_run_has_its_cost_in_log_history_lists_and_metrics(system: LocalSystem) -> None:
    """By the operator's price, also over an approval."""
    model = "openai:test-model"
    async with FakeProvider() as provider:
        agent = msgspec.structs.replace(build_demo_agent(model), name=system.agent)
        runner = await system.runner(
            [agent],
            model_base_url=provider.base_url,
            model_api_key="secret-key",
            prices=f'{{"{model}": {{"input": 1, "output": 10}}}}',
        )
        base, session = await system.gateway(), system.fresh("s")
        arguments = call(0, '{"file": "notes.txt"}', name="delete", call_id="call_a")
        provider.queue(
            ProviderReply([arguments, delta(finish="tool_calls"), usage(7, 3)]), text("It is ", "gone.")
        )
        asked = await system.post(base, system.chat(session, "delete notes.txt"))
        assert asked.chunks[-1]["messageMetadata"]["usage"]["costUsd"] == 37e-6
        answer = await system.post(base, await system.decision(base, session, approved=True))
        share = {"inputTokens": 10, "outputTokens": 5, "costUsd": 60e-6}
        assert answer.chunks[-1]["messageMetadata"]["usage"] == share | {
            "totalTokens": 15,
            "models": {model: share},
        }
        usage_url = f"{base}/api/agents/{system.agent}/{session}/usage"
        assert (await system.get(usage_url)).json["costUsd"] == 60e-6
        [run] = (await system.get(f"{base}/api/runs?session={session}")).json["runs"]
        assert run["costUsd"] == 60e-6
        report = (await system.get(f"{base}/api/usage?by=agent,model")).json["usage"]
        [line] = [one for one in report if one["agent"] == system.agent]
        assert (line["model"], line["inputTokens"], line["costUsd"]) == (model, 10, 60e-6)
        assert runner.metrics.registry.get_sample_value(
            "rejoin_cost_usd_total", {"agent": system.agent, "model": model}
        ) == pytest.approx(60e-6)


async def test_the_next_turn_knows_the_last_one(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        provider.queue(text("First."), text("Second."))
        await system.post(base, system.chat(session, "one"))
        assert (await system.post(base, system.chat(session, "two"))).text == "Second."
        told = [one["content"] for one in provider.requests[1]["messages"] if one["role"] != "system"]
        assert told == ["one", "First.", "two"]


async def test_a_provider_that_refuses_ends_the_run_with_an_error_without_secrets(
    system: LocalSystem,
) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        provider.queue(failure(401))
        async with system.http.post(
            f"{base}/api/chat", json=system.chat(session, "hi"), headers={"x-emit-operations": "true"}
        ) as response:
            answer = await Answer.of(response)
        assert answer.complete
        [error] = [chunk for chunk in answer.chunks if chunk["type"] == "error"]
        [operation] = [chunk for chunk in answer.chunks if chunk.get("data", {}).get("type") == "error"]
        assert operation["data"]["message"] == error["errorText"]
        assert operation["data"]["severity"] == "error"
        assert operation["data"]["timestamp"] > 0
        for secret in ("secret-key", "127.0.0.1", "Traceback"):
            assert secret not in answer.raw.decode()
