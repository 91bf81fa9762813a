"""The requests to models and their answers, recorded for the inspector."""

from contextlib import aclosing
from typing import Any

import msgspec
import pytest

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.model_call import CALL_TEXT_BYTES_MAX, Exchange
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.models.call_recording import recording
from rejoin_runner.models.model import build_question
from rejoin_runner.models.providers.provider import ProviderConnections
from tests.support.providers.protocols import ALL, ProviderProtocol
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, failure, text, usage
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

KEYS = {"context_encryption_keys": "one:" + "A" * 43 + "="}


async def serve(system: LocalSystem, provider: FakeProvider, *, gateway: Any = None, **settings: Any) -> str:
    """A gateway, and a runner that records the calls of a model."""
    agent = msgspec.structs.replace(build_demo_agent("openai:test-model"), name=system.agent)
    wanted = {"record_model_calls": True, "model_api_key": "secret-key", **settings}
    await system.runner([agent], model_base_url=provider.base_url + "?token=hidden", **wanted)
    return await system.gateway(**(gateway or {}))


async def run_of(system: LocalSystem, base: str, session: str) -> str:
    found = (await system.get(f"{base}/run/v1/conversations/{session}/executions")).json
    return str(found["executions"][0]["id"])


async def calls_of(system: LocalSystem, base: str, run: str, count: int) -> list[Any]:
    """The recorded calls, once there are so many."""
    calls: list[Any] = []

    async def are_recorded() -> bool:
        calls[:] = (await system.get(f"{base}/api/runs/{run}/model-calls")).json["calls"]
        return len(calls) >= count

    await wait_until(are_recorded)
    return calls


async def test_each_steps_request_and_raw_answer_are_kept(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        arguments = call(0, '{"city": "Oslo"}', name="weather", call_id="call_a")
        provider.queue(
            failure(503),
            ProviderReply([arguments, delta(finish="tool_calls"), usage(7, 3)]),
            text("It is ", "cold."),
        )
        await system.post(base, system.chat(session, "How is the weather in Oslo?"))
        run = await run_of(system, base, session)
        calls = await calls_of(system, base, run, 3)
        assert [(one["step"], one["attempt"], one["status"]) for one in calls] == [
            (1, 1, 503),
            (1, 1, 200),
            (2, 1, 200),
        ]
        sent = [msgspec.json.decode(one["request"]) for one in calls]
        assert sent == provider.requests
        assert calls[0]["request"] == calls[1]["request"]
        assert "It is " in calls[2]["answer"]
        assert calls[2]["answer"].startswith("data: ")
        assert "[DONE]" in calls[2]["answer"]
        assert {one["agent"] for one in calls} == {system.agent}
        assert all(one["url"].endswith("/chat/completions") for one in calls)
        whole = msgspec.json.encode(calls).decode()
        assert "secret-key" not in whole
        assert "hidden" not in whole
        assert all(one["requestBytes"] == len(one["request"].encode()) for one in calls)


async def test_a_call_that_was_cut_off_shows_what_there_is(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        provider.queue(ProviderReply([delta(content="It is ")], ending="stall"))
        async with system.http.post(f"{base}/api/chat", json=system.chat(session, "go")) as response:
            async for line in response.content:
                if b"It is" in line:
                    break
            run = await run_of(system, base, session)
            assert (await system.get(f"{base}/api/runs/{run}/model-calls")).json["calls"] == []
            async with system.http.post(f"{base}/run/api/executions/{run}/interrupt") as stopped:
                assert stopped.status == 200
        [one] = await calls_of(system, base, run, 1)
        assert (one["status"], one["step"]) == (200, 1)
        assert "It is " in one["answer"]
        assert "[DONE]" not in one["answer"]


async def test_a_long_answer_is_cut_and_says_its_size(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        provider.queue(text(*["x" * 50_000] * 8))
        await system.post(base, system.chat(session, "y" * 300_000))
        run = await run_of(system, base, session)
        [one] = await calls_of(system, base, run, 1)
        assert len(one["request"]) == len(one["answer"]) == CALL_TEXT_BYTES_MAX
        assert one["requestBytes"] > 300_000
        assert one["answerBytes"] > 400_000


async def test_records_are_encrypted_where_contexts_are(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider, gateway=KEYS, **KEYS), system.fresh("s")
        provider.queue(text("It is cold."))
        await system.post(base, system.chat(session, "How is the weather?"))
        run = await run_of(system, base, session)
        [one] = await calls_of(system, base, run, 1)
        assert "How is the weather?" in one["request"]
        async with nats_connection.connect(system.nats_url, "stored") as connection:
            page = await JetStreamRunLog(connection, connection).model_calls(RunId(run), after=0)
        [stored] = page.calls
        assert b"weather" not in stored
        keyless = await system.gateway()
        found = (await system.get(f"{keyless}/api/runs/{run}/model-calls")).json
        assert found == {"calls": [], "unreadable": 1, "next": 0}


async def test_nothing_is_recorded_unless_it_is_asked_for(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider, record_model_calls=False), system.fresh("s")
        provider.queue(text("It is cold."))
        await system.post(base, system.chat(session, "go"))
        run = await run_of(system, base, session)
        found = (await system.get(f"{base}/api/runs/{run}/model-calls")).json
        assert found == {"calls": [], "unreadable": 0, "next": 0}


async def test_the_records_go_with_their_session(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider, sweep_interval_s=0.1), system.fresh("s")
        provider.queue(text("It is cold."))
        await system.post(base, system.chat(session, "go"))
        run = await run_of(system, base, session)
        await calls_of(system, base, run, 1)
        async with system.http.delete(f"{base}/api/agents/{system.agent}/{session}") as response:
            assert response.status < 300
        assert (await system.get(f"{base}/api/runs/{run}/model-calls")).status == 404
        async with nats_connection.connect(system.nats_url, "stored") as connection:
            log = JetStreamRunLog(connection, connection)

            async def is_gone() -> bool:
                return not (await log.model_calls(RunId(run), after=0)).calls

            await wait_until(is_gone)


@pytest.mark.parametrize("speaks", ALL, ids=lambda speaks: speaks.provider)
async def test_every_protocol_shows_its_own_request_and_answer(speaks: ProviderProtocol) -> None:
    """Also those that are asked through a library: as its client sends it."""
    seen: list[Exchange] = []
    async with FakeProvider() as provider, ProviderConnections() as connections:
        provider.queue(speaks.thinks)
        model = speaks.open(provider, connections)
        with recording(seen.append):
            async with aclosing(model.stream(build_question("be kind", "hi"))) as stream:
                async for _ in stream:
                    pass
    [one] = seen
    assert msgspec.json.decode(one.request) == provider.requests[0]
    assert one.url.endswith(speaks.path)
    assert one.status == 200
    frames = b"".join(frame for frame in speaks.thinks.frames if isinstance(frame, bytes)).decode()
    assert frames in one.answer
    assert one.answer_bytes >= len(frames)
