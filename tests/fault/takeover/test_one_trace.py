"""One trace of a run, and its cost, over a kill and a decision, by OpenTelemetry's GenAI conventions."""

import json
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from rejoin_runner.models.call_telemetry import SECOND_BUCKETS, TOKEN_BUCKETS
from tests.support.faults.killed_runners import runner_process
from tests.support.otlp_collector import OtlpCollector
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, failure, text, usage
from tests.support.system.local_system import Answer, LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.processes import Command

pytestmark = pytest.mark.slow

ASKED, DECIDED = (f"00-{letter * 32}-{letter * 16}-01" for letter in "ab")


def tool_call(name: str, arguments: dict[str, Any], call_id: str) -> ProviderReply:
    piece = call(0, json.dumps(arguments), name=name, call_id=call_id)
    return ProviderReply([piece, delta(finish="tool_calls"), usage(7, 3)])


@asynccontextmanager
async def posted(
    system: LocalSystem, base: str, body: dict[str, Any], traceparent: str
) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"traceparent": traceparent}
    async with system.http.post(f"{base}/api/chat", json=body, headers=headers) as response:
        yield response


async def post(system: LocalSystem, base: str, body: dict[str, Any], traceparent: str) -> Answer:
    async with posted(system, base, body, traceparent) as response:
        return await Answer.of(response)


def traced_runner(
    system: LocalSystem, logs: Path, settings: Mapping[str, str]
) -> AbstractAsyncContextManager[Command]:
    return runner_process(system, logs, "traced_agent", "tests.support.models", **settings)


def variables(provider: FakeProvider, collector: OtlpCollector, **more: str) -> dict[str, str]:
    return {
        "REJOIN_MODEL_BASE_URL": provider.base_url,
        "REJOIN_MODEL_API_KEY": "secret-key",
        "REJOIN_PRICES": '{"openai:test-model": {"input": 1, "output": 10}}',
        "REJOIN_OTLP_ENDPOINT": collector.traces_url,
        "REJOIN_OTLP_METRICS_ENDPOINT": collector.metrics_url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        **more,
    }


@pytest.mark.feature("F114")
async def test_a_run_is_one_trace_over_a_killed_runner_and_an_approval(
    system: LocalSystem, tmp_path: Path
) -> None:
    base, session = await system.gateway(), system.fresh("s")
    async with FakeProvider() as provider, OtlpCollector() as collector:
        settings = variables(provider, collector)
        provider.queue(
            tool_call("weather", {"city": "Oslo"}, "call_w"),
            ProviderReply([delta(content="A secret"), 60.0]),
            tool_call("delete", {"file": "notes.txt"}, "call_d"),
            text("It is gone."),
        )
        body = system.chat(session, "delete notes.txt")
        async with (
            traced_runner(system, tmp_path / "first", settings) as first,
            posted(system, base, body, ASKED) as response,
        ):
            await wait_until(lambda: len(collector.named("execute_tool weather")) == 1, "the first call")
            await wait_until(lambda: len(provider.requests) == 2, "the second model call")
            first.signal(signal.SIGKILL)
            async with traced_runner(system, tmp_path / "second", settings) as second:
                await response.read()
                decision = await system.decision(base, session, approved=True)
                answer = await post(system, base, decision, DECIDED)
                assert answer.text.endswith("It is gone.")
                second.signal(signal.SIGTERM)
                assert await second.end() == 0
    # Of the three whole steps: 7 + 7 + 3 tokens in at 1 USD for a million, 3 + 3 + 1 out at 10 USD.
    assert answer.chunks[-1]["messageMetadata"]["usage"]["costUsd"] == 87e-6
    run = response.headers["x-workflow-run-id"]
    own = [span for span in collector.spans if span.attributes.get("gen_ai.conversation.id") == session]
    runs = [span for span in collector.spans if span.attributes.get("rejoin.run") == run]
    assert {span.trace for span in (*own, *runs)} == {"a" * 32}
    assert {span.name for span in own} >= {
        f"invoke_agent {system.agent}",
        "chat test-model",
        "execute_tool weather",
        "execute_tool delete",
    }
    turns = {(span.attributes["rejoin.turn"], tuple(span.links)) for span in runs if span.name == "run"}
    assert turns == {(0, ()), (1, ("b" * 32,))}
    assert max(span.attributes.get("rejoin.attempt", 0) for span in runs) >= 3
    check_conventions(collector, system.agent)
    assert "secret" not in str(collector.spans)
    assert "Oslo" not in str(collector.spans)


def check_conventions(collector: OtlpCollector, agent: str) -> None:
    """Names and values that tools look for."""
    chats = [span for span in collector.named("chat test-model") if not span.failed]
    asked = chats[0].attributes
    assert asked["gen_ai.operation.name"] == "chat"
    assert (asked["gen_ai.provider.name"], asked["gen_ai.request.model"]) == ("openai", "test-model")
    assert asked["gen_ai.response.model"] == "fake"
    assert (asked["gen_ai.usage.input_tokens"], asked["gen_ai.usage.output_tokens"]) == (7, 3)
    assert asked["gen_ai.response.finish_reasons"] == ["tool_call"]
    assert asked["gen_ai.agent.name"] == agent
    [tool] = collector.named("execute_tool weather")
    assert (tool.attributes["gen_ai.tool.name"], tool.attributes["gen_ai.tool.call.id"]) == (
        "weather",
        "call_w",
    )
    parents = {span.id: span.name for span in collector.spans}
    assert parents[chats[-1].parent] == "step"
    tokens = [point for point in collector.points if point.metric == "gen_ai.client.token.usage"]
    assert {point.attributes["gen_ai.token.type"] for point in tokens} == {"input", "output"}
    assert all(point.bounds == list(TOKEN_BUCKETS) and point.unit == "{token}" for point in tokens)
    durations = [point for point in collector.points if point.metric == "gen_ai.client.operation.duration"]
    assert all(point.bounds == pytest.approx(SECOND_BUCKETS) and point.unit == "s" for point in durations)
    assert durations[0].attributes["gen_ai.request.model"] == "test-model"


async def test_content_and_users_are_in_spans_only_if_the_operator_says_so(
    system: LocalSystem, tmp_path: Path
) -> None:
    base = await system.gateway()
    async with FakeProvider() as provider, OtlpCollector() as collector:
        settings = variables(provider, collector, REJOIN_OTLP_CONTENT="true", REJOIN_OTLP_USERS="hash")
        provider.queue(tool_call("weather", {"city": "Oslo"}, "call_w"), text("It is cold."), failure(400))
        async with traced_runner(system, tmp_path / "logs", settings) as process:
            session = system.fresh("s")
            await post(system, base, system.chat(session, "How is it in Oslo?"), ASKED)
            await post(system, base, system.chat(session, "And in Rome?"), ASKED)
            process.signal(signal.SIGTERM)
            assert await process.end() == 0
    first, second, failed = collector.named("chat test-model")
    assert json.loads(first.attributes["gen_ai.input.messages"])[-1] == {
        "role": "user",
        "parts": [{"type": "text", "content": "How is it in Oslo?"}],
    }
    assert json.loads(first.attributes["gen_ai.output.messages"])[0]["parts"][0]["name"] == "weather"
    assert [one["role"] for one in json.loads(second.attributes["gen_ai.input.messages"])][-2:] == [
        "assistant",
        "tool",
    ]
    assert json.loads(second.attributes["gen_ai.output.messages"])[0]["finish_reason"] == "stop"
    assert "helpful" in first.attributes["gen_ai.system_instructions"]
    [tool] = collector.named("execute_tool weather")
    assert json.loads(tool.attributes["gen_ai.tool.call.arguments"]) == {"city": "Oslo"}
    assert "Oslo" in tool.attributes["gen_ai.tool.call.result"]
    assert (failed.failed, failed.attributes["error.type"]) == (True, "model_error")
    assert "user.id" not in first.attributes
