"""The requests to models and their answers, recorded for the inspector."""

import asyncio
import signal
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.ports.run_log import CALLS_READ_BYTES_MAX
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.model_call import (
    CALL_RECORD_BYTES_MAX,
    CALL_TEXT_BYTES_MAX,
    ReceivedAnswer,
    SentRequest,
)
from rejoin_runner.demo import build_demo_agent
from rejoin_runner.models.call_recording import OnAnswer, recording
from rejoin_runner.models.model import build_question
from rejoin_runner.models.providers.provider import ProviderConnections
from tests.support.faults.killed_runners import runner_process
from tests.support.providers.protocols import ALL, ProviderProtocol
from tests.support.providers.server import FakeProvider, ProviderReply, call, delta, failure, text, usage
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

PROVIDERS = "tests.support.providers"
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


async def calls_of(system: LocalSystem, base: str, run: str, answers: int) -> list[Any]:
    """The recorded calls as `{"request": …, "answer": …}`, once one is there and so many are answered."""
    calls: dict[str, Any] = {}

    async def are_recorded() -> object:
        after, more = 0, True
        calls.clear()
        while more:
            page = (await system.get(f"{base}/api/runs/{run}/model-calls?after={after}")).json
            for record in page["records"]:
                calls.setdefault(record["call"], {})[record["kind"]] = record
            after, more = page["next"], page["next"] > 0
        return calls and sum("answer" in call for call in calls.values()) >= answers

    await wait_until(are_recorded)
    return list(calls.values())


@pytest.mark.feature("F123")
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
        requests, answers = [one["request"] for one in calls], [one["answer"] for one in calls]
        assert [(one["step"], one["attempt"]) for one in requests] == [(1, 1), (1, 1), (2, 1)]
        assert [(one["step"], one["status"]) for one in answers] == [(1, 503), (1, 200), (2, 200)]
        assert [msgspec.json.decode(one["text"]) for one in requests] == provider.requests
        assert requests[0]["text"] == requests[1]["text"]
        assert "It is " in answers[2]["text"]
        assert answers[2]["text"].startswith("data: ")
        assert "[DONE]" in answers[2]["text"]
        assert {one["agent"] for one in requests} == {system.agent}
        assert all(one["url"].endswith("/chat/completions") for one in requests)
        whole = msgspec.json.encode(calls).decode()
        assert "secret-key" not in whole
        assert "hidden" not in whole
        assert all(one["bytes"] == len(one["text"].encode()) for one in requests)
        of_step = (await system.get(f"{base}/api/runs/{run}/model-calls?step=2")).json["records"]
        assert of_step == [requests[2], answers[2]]
        for refused in ("step=0", "step=x", "limit=0", "limit=17", "after=-1"):
            assert (await system.get(f"{base}/api/runs/{run}/model-calls?{refused}")).status == 400


async def test_a_call_that_was_cut_off_shows_what_there_is(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        provider.queue(ProviderReply([delta(content="It is ")], ending="stall"))
        async with system.http.post(f"{base}/api/chat", json=system.chat(session, "go")) as response:
            async for line in response.content:
                if b"It is" in line:
                    break
            run = await run_of(system, base, session)
            async with system.http.post(f"{base}/run/api/executions/{run}/interrupt") as stopped:
                assert stopped.status == 200
        [one] = await calls_of(system, base, run, 1)
        assert (one["answer"]["status"], one["answer"]["step"]) == (200, 1)
        assert "It is " in one["answer"]["text"]
        assert "[DONE]" not in one["answer"]["text"]


@pytest.mark.feature("F123")
async def test_a_call_whose_runner_was_killed_has_its_request(system: LocalSystem, tmp_path: Path) -> None:
    """It was stored before the answer; the next attempt's call stands beside it."""
    async with FakeProvider() as provider:
        base, session = await system.gateway(), system.fresh("s")
        variables = {
            "REJOIN_MODEL_BASE_URL": provider.base_url,
            "REJOIN_MODEL_API_KEY": "k",
            "REJOIN_RECORD_MODEL_CALLS": "true",
        }
        provider.queue(ProviderReply([delta(content="It is ")], ending="stall"), text("It is cold."))
        async with runner_process(
            system, tmp_path / "first", "asking_agent", PROVIDERS, **variables
        ) as first:
            asking = asyncio.create_task(system.post(base, system.chat(session, "go")))
            await wait_until(lambda: provider.requests)
            run = await run_of(system, base, session)
            [cut] = await calls_of(system, base, run, 0)
            first.signal(signal.SIGKILL)
            await first.end()
        async with runner_process(system, tmp_path / "second", "asking_agent", PROVIDERS, **variables):
            assert (await asking).complete
            begun, second = await calls_of(system, base, run, 1)
        assert begun == cut == {"request": cut["request"]}
        assert (begun["request"]["attempt"], second["request"]["attempt"]) == (1, 2)
        assert second["request"]["text"] == cut["request"]["text"]
        assert "It is cold." in second["answer"]["text"]


async def test_a_long_answer_is_cut_and_says_its_size(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        provider.queue(text(*["x" * 50_000] * 8))
        await system.post(base, system.chat(session, "y" * 300_000))
        run = await run_of(system, base, session)
        [one] = await calls_of(system, base, run, 1)
        assert len(one["request"]["text"]) == len(one["answer"]["text"]) == CALL_TEXT_BYTES_MAX
        assert one["request"]["bytes"] > 300_000
        assert one["answer"]["bytes"] > 400_000


async def test_no_page_of_large_calls_is_larger_than_its_bound(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider), system.fresh("s")
        large = "\x01" * 2_000 + "y" * 300_000  # JSON makes the beginning longer
        for step in range(6):
            arguments = call(0, '{"city": "Oslo"}', name="weather", call_id=f"call_{step}")
            provider.queue(ProviderReply([arguments, delta(finish="tool_calls")]))
        provider.queue(text("cold"))
        await system.post(base, system.chat(session, large))
        run = await run_of(system, base, session)
        calls = await calls_of(system, base, run, 7)
        assert sum(len(one["request"]["text"]) for one in calls) == 7 * CALL_TEXT_BYTES_MAX
        records, after, more = 0, 0, True
        while more:
            answer = await system.get(f"{base}/api/runs/{run}/model-calls?after={after}&limit=16")
            assert len(answer.raw) < CALLS_READ_BYTES_MAX + CALL_RECORD_BYTES_MAX + 1024
            records += len(answer.json["records"])
            after, more = answer.json["next"], answer.json["next"] > 0
        assert records == 14
        one = (await system.get(f"{base}/api/runs/{run}/model-calls?limit=1")).json
        assert (len(one["records"]), one["next"] > 0) == (1, True)


async def test_beyond_the_bytes_of_a_tenants_hour_only_sizes_are_recorded(system: LocalSystem) -> None:
    """Another tenant's calls are recorded whole: see the unit test."""
    async with FakeProvider() as provider:
        base, session = await serve(system, provider, recorded_bytes_max=20_000), system.fresh("s")
        provider.queue(text("small"), text("z" * 30_000))
        for message in ("one", "two"):
            await system.post(base, system.chat(session, message))
        latest = await run_of(system, base, session)
        [one] = await calls_of(system, base, latest, 1)
        assert msgspec.json.decode(one["request"]["text"]) == provider.requests[1]
        assert (one["answer"]["text"], one["answer"]["status"]) == ("", 200)
        assert one["answer"]["bytes"] > 30_000


async def test_records_are_encrypted_where_contexts_are(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider, gateway=KEYS, **KEYS), system.fresh("s")
        provider.queue(text("It is cold."))
        await system.post(base, system.chat(session, "How is the weather?"))
        run = await run_of(system, base, session)
        [one] = await calls_of(system, base, run, 1)
        assert "How is the weather?" in one["request"]["text"]
        async with nats_connection.connect(system.nats_url, "stored") as connection:
            page = await JetStreamRunLog(connection, connection).model_calls(RunId(run), after=0)
        assert len(page.calls) == 2
        assert not any(b"weather" in stored for stored in page.calls)
        keyless = await system.gateway()
        found = (await system.get(f"{keyless}/api/runs/{run}/model-calls")).json
        assert found == {"records": [], "unreadable": 2, "next": 0}


async def test_nothing_is_recorded_unless_it_is_asked_for(system: LocalSystem) -> None:
    async with FakeProvider() as provider:
        base, session = await serve(system, provider, record_model_calls=False), system.fresh("s")
        provider.queue(text("It is cold."))
        await system.post(base, system.chat(session, "go"))
        run = await run_of(system, base, session)
        found = (await system.get(f"{base}/api/runs/{run}/model-calls")).json
        assert found == {"records": [], "unreadable": 0, "next": 0}


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
    sent: list[SentRequest] = []
    received: list[ReceivedAnswer] = []

    def on_request(request: SentRequest) -> OnAnswer:
        sent.append(request)
        return received.append

    async with FakeProvider() as provider, ProviderConnections() as connections:
        provider.queue(speaks.thinks)
        model = speaks.open(provider, connections)
        with recording(on_request):
            async with aclosing(model.stream(build_question("be kind", "hi"))) as stream:
                async for _ in stream:
                    pass
    [request], [answer] = sent, received
    assert msgspec.json.decode(request.text) == provider.requests[0]
    assert request.url.endswith(speaks.path)
    assert answer.status == 200
    frames = b"".join(frame for frame in speaks.thinks.frames if isinstance(frame, bytes)).decode()
    assert frames in answer.text
    assert answer.bytes >= len(frames)
