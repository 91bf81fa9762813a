"""The Prometheus metrics: correct counts, bounded labels, no personal data."""

import asyncio
import re

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rejoin_adapters.jetstream.live_feed import READER_BYTES_MAX
from rejoin_adapters.jetstream.log_tail import ResyncReason, open_log_tail
from rejoin_adapters.memory.broker.run_log import MemoryRunLog
from rejoin_adapters.process import metrics_server
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import RunId
from rejoin_protocol.log.record import Head
from rejoin_runner.run.metrics import RunnerMetrics
from tests.support.faults.lossy_broker import open_lossy_broker
from tests.support.faults.takeover import SILENT_RUNNER
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until

POST = frozenset({("method", "POST")})

type Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scraped(system: LocalSystem, base: str) -> Samples:
    answer = await system.get(f"{base}/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples(answer.raw.decode())


async def test_a_gateway_counts_its_requests_by_template_and_never_by_path(system: LocalSystem) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    assert (await system.post(base, system.chat(session, "count 3"))).complete
    await system.get(f"{base}/api/chat/{session}/stream")
    await system.get(f"{base}/nowhere/{session}")
    async with system.http.request("PROPFIND", f"{base}/nowhere") as response:
        assert response.status == 404
    found = await scraped(system, base)

    def count(method: str, route: str, status: int) -> float:
        labels = {"method": method, "route": route, "status": str(status)}
        return found["rejoin_http_requests_total", frozenset(labels.items())]

    assert count("POST", "/api/chat", 200) == 1
    assert count("GET", "/api/chat/{id}/stream", 204) == 1
    assert count("GET", "(none)", 404) == 1
    assert count("(none)", "(none)", 404) == 1
    assert found["rejoin_first_event_seconds_count", POST] == 1
    assert found["rejoin_stream_catchup_seconds_count", frozenset()] == 1
    assert found["rejoin_open_streams", frozenset()] == 0
    labels = {value for _, labels in found for _, value in labels}
    assert not [value for value in labels if session in value or value in {"default", base}]


async def test_a_queue_without_a_runner_shows_in_the_metrics(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rejoin_gateway.app.RUN_COUNT_INTERVAL_S", 0.05)
    base = await system.gateway()
    (await system.runner()).drain()
    body = system.chat(system.fresh("s"), "count 1")
    async with system.http.post(f"{base}/api/chat", json=body) as response:
        assert response.status == 200
        queued = ("rejoin_active_runs", frozenset({("agent", system.agent), ("state", "queued")}))
        oldest = ("rejoin_queue_oldest_age_seconds", frozenset({("agent", system.agent)}))

        async def grows() -> bool:
            found = await scraped(system, base)
            return found.get(queued) == 1 and found.get(oldest, 0) > 0.2

        await wait_until(grows)


async def test_live_lag_is_sampled(system: LocalSystem) -> None:
    """One of many appends, not each."""
    await system.runner()
    base = await system.gateway()
    assert (await system.post(base, system.chat(system.fresh("s"), "count 20 every 20 ms"))).complete
    found = await scraped(system, base)
    assert 1 <= found["rejoin_live_lag_seconds_count", frozenset()] <= 3
    assert found["rejoin_live_lag_seconds_sum", frozenset()] < 5


async def test_metrics_with_a_port_of_their_own_are_not_a_route(system: LocalSystem) -> None:
    base = await system.gateway(metrics_port=0)
    assert (await system.get(f"{base}/metrics")).status == 404


async def test_a_runner_shows_runs_steps_tools_and_tokens_on_its_own_port(system: LocalSystem) -> None:
    worker = await system.runner()
    base = await system.gateway()
    with metrics_server.serve_metrics(worker.metrics.registry, "127.0.0.1", 0) as port:
        await system.post(base, system.chat(system.fresh("s"), "weather Paris"))
        await system.post(base, system.chat(system.fresh("s"), "fail"))
        session = system.fresh("s")
        await system.post(base, system.chat(session, "delete notes.txt"))
        await system.post(base, await system.decision(base, session, approved=False))

        async def let_go() -> bool:
            found = await _of_runner(port)
            return found["rejoin_runs_in_progress", frozenset({("agent", system.agent)})] == 0

        await wait_until(let_go)
        found = await _of_runner(port)

    def count(name: str, **labels: str) -> float:
        return found.get((name, frozenset({"agent": system.agent, **labels}.items())), 0)

    assert count("rejoin_runs_total", state="completed") == 2
    assert count("rejoin_runs_total", state="failed") == 1
    assert count("rejoin_runs_total", state="suspended") == 1
    assert count("rejoin_runs_total", state="running") == 4
    assert count("rejoin_tool_calls_total", tool="weather", outcome="ok") == 1
    assert count("rejoin_tool_calls_total", tool="delete", outcome="denied") == 1
    assert count("rejoin_model_errors_total", code="model_error") == 1
    assert count("rejoin_steps_total") == 5
    assert count("rejoin_tokens_total", kind="output") > 0
    assert count("rejoin_queue_wait_seconds_count") == 4
    assert count("rejoin_takeovers_total") == 0
    assert found["rejoin_append_seconds_count", frozenset()] > 4
    assert ("process_open_fds", frozenset()) in found


async def test_a_takeover_is_counted_and_a_resumed_turn_is_none(system: LocalSystem) -> None:
    """The first runner stops in the middle of the run; the second one continues it."""
    first = await system.runner(**SILENT_RUNNER)
    base = await system.gateway()
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(system.post(base, system.chat(system.fresh("s"), "count 30 every 50 ms")))
        await wait_until(
            lambda: (
                first.metrics.registry.get_sample_value("rejoin_runs_in_progress", {"agent": system.agent})
                == 1
            )
        )
        second = await system.runner(ack_wait_s=0.4, max_concurrent_runs=1)
    assert answer.result().complete
    takeovers = [
        worker.metrics.registry.get_sample_value("rejoin_takeovers_total", {"agent": system.agent})
        for worker in (first, second)
    ]
    assert takeovers == [None, 1]
    fenced = {"agent": system.agent, "reason": "fenced"}
    assert first.metrics.registry.get_sample_value("rejoin_attempts_aborted_total", fenced) == 1


async def _of_runner(port: int | None) -> Samples:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/metrics") as response:
        return samples(await response.text())


async def test_a_taken_port_is_reported_in_one_sentence() -> None:
    with (
        metrics_server.serve_metrics(RunnerMetrics().registry, "127.0.0.1", 0) as port,
        pytest.raises(Invalid, match=re.escape(f"127.0.0.1:{port}")),
        metrics_server.serve_metrics(RunnerMetrics().registry, "127.0.0.1", port),
    ):
        pass


async def test_gaps_and_broken_connections_are_counted_and_mended(system: LocalSystem, nats_url: str) -> None:
    await system.runner()
    async with open_lossy_broker(nats_url, drop=0.3) as url:
        base = await system.gateway(nats_url=url)
        assert (await system.post(base, system.chat(system.fresh("s"), "count 60 every 5 ms"))).complete
        found = await scraped(system, base)
        assert found["rejoin_stream_resyncs_total", frozenset({("reason", "gap")})] > 0
        assert found["rejoin_stream_resyncs_total", frozenset({("reason", "away")})] == 0
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(
                system.post(base, system.chat(system.fresh("s"), "count 60 every 20 ms"))
            )

            async def streams() -> bool:
                return (await scraped(system, base))["rejoin_first_event_seconds_count", POST] == 2

            await wait_until(streams)
            url.cut()
        assert asked.result().complete
        found = await scraped(system, base)
        assert found["rejoin_stream_resyncs_total", frozenset({("reason", "away")})] > 0


async def test_a_slow_reader_is_told_from_a_broken_connection() -> None:
    log, run, why = MemoryRunLog(), RunId("run_slow"), list[ResyncReason]()
    async with open_log_tail(log, run, on_resync=why.append) as records:
        for index in range(3):
            head = Head(prev=index, attempt=1, index=index, count=1)
            await log.append(run, head, b"x" * READER_BYTES_MAX)
            if index == 0:
                await records.next(1)
        seen = [record.seq for record in await records.next(1)]
    assert seen == [2]
    assert why == [ResyncReason.SLOW]
