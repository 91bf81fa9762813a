"""Traces: from a request through the queue to steps and tools of the runner, without any message text."""

import asyncio
import gzip
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from rejoin_adapters.jetstream import nats_connection, setup
from rejoin_adapters.jetstream.run_queue import JetStreamRunQueue
from rejoin_adapters.process import tracing
from rejoin_adapters.process.tracing import TelemetryOptions
from rejoin_protocol.errors import Invalid
from rejoin_protocol.ids import AgentName, RunId
from rejoin_protocol.run_request import RunRequest
from rejoin_runner.run import instrumentation
from tests.support.system.forked_python import ROOT
from tests.support.system.local_system import LocalSystem
from tests.support.system.nats_cluster import cluster
from tests.support.system.observation import wait_until

CALLER = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


class Seen:
    """The spans that have ended."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()

    async def have(self, name: str, count: int) -> list[ReadableSpan]:
        await wait_until(lambda: len(self.named(name)) >= count, f"span {name}")
        return self.named(name)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """As if an exporter were configured, for one test: the SDK lets it be set once in a process."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    return Seen(exporter)


def parent(span: ReadableSpan) -> int | None:
    return None if span.parent is None else int(span.parent.span_id)


def own(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


async def test_one_trace_leads_from_the_callers_request_to_the_tool(system: LocalSystem, seen: Seen) -> None:
    await system.runner()
    base = await system.gateway()
    body = system.chat(system.fresh("s"), "weather Paris")
    async with system.http.post(f"{base}/api/chat", json=body, headers={"traceparent": CALLER}) as response:
        await response.read()
    [request] = await seen.have("POST /api/chat", 1)
    [run] = await seen.have("run", 1)
    steps, [tool] = seen.named("step"), seen.named("execute_tool weather")
    [invocation] = seen.named(f"invoke_agent {system.agent}")
    assert {trace_of(span) for span in (request, run, invocation, *steps, tool)} == {int(CALLER[3:35], 16)}
    assert parent(request) == int(CALLER[36:52], 16)
    assert parent(run) == own(request)
    assert parent(invocation) == own(run)
    assert [parent(span) for span in steps] == [own(invocation)] * 2
    assert parent(tool) == own(invocation)
    assert (run.attributes or {})["rejoin.run"] == response.headers["x-workflow-run-id"]
    assert (request.attributes or {})["http.response.status_code"] == 200
    assert "Paris" not in "".join(span.to_json() for span in seen.all())


async def test_a_resumed_turn_is_in_the_runs_trace_and_linked_to_the_decision(
    system: LocalSystem, seen: Seen
) -> None:
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    await system.post(base, system.chat(session, "delete notes.txt"))
    await system.post(base, await system.decision(base, session, approved=True))
    first, resumed = await seen.have("run", 2)
    asked, decision = await seen.have("POST /api/chat", 2)
    assert trace_of(first) == trace_of(resumed) == trace_of(asked) != trace_of(decision)
    assert parent(resumed) == own(asked)
    [link] = resumed.links
    assert link.context.span_id == own(decision)
    assert not first.links


async def test_a_run_that_waited_for_another_is_in_its_own_requests_trace(
    system: LocalSystem, seen: Seen
) -> None:
    """The runner of the run before publishes its request."""
    await system.runner()
    base, session = await system.gateway(), system.fresh("s")
    await asyncio.gather(*(system.post(base, system.chat(session, "count 20 every 10 ms")) for _ in range(2)))
    runs, requests = await seen.have("run", 2), await seen.have("POST /api/chat", 2)
    assert {trace_of(span) for span in runs} == {trace_of(span) for span in requests}
    assert not [span for span in runs if span.links]


def test_users_are_named_as_the_operator_wants(monkeypatch: pytest.MonkeyPatch) -> None:
    def named(users: Literal["none", "hash", "id"], user: str | None = "ann") -> Mapping[str, Any]:
        monkeypatch.setattr(tracing, "_options", TelemetryOptions(users=users))
        return tracing.user_attributes("acme", user)

    assert named("none") == named("hash", None) == {}
    assert named("id") == {"user.id": "ann"}
    hashed = named("hash")
    assert hashed == named("hash")
    assert len(hashed["user.hash"]) == tracing.USER_HASH_CHARS
    assert hashed != named("hash", "bob")


async def test_a_failure_is_marked_by_a_word_of_ours(system: LocalSystem, seen: Seen) -> None:
    await system.runner()
    base = await system.gateway()
    await system.post(base, system.chat(system.fresh("s"), "fail"))
    await seen.have("run", 1)
    [step] = seen.named("step")
    assert (step.status.is_ok, step.status.description) == (False, "model_error")
    assert not step.events


async def test_the_trace_crosses_from_the_gateways_account_to_the_runners(seen: Seen, tmp_path: Path) -> None:
    """With the users, accounts and permissions of production."""
    agent, run = AgentName("traced"), RunId("run_traced")
    async with (
        cluster(tmp_path, 1) as brokers,
        nats_connection.connect(brokers.url("admin"), "tests") as admin,
        nats_connection.connect(brokers.url("gateway"), "gateway-api") as gateway,
        nats_connection.connect(brokers.url("runner"), "runner-queue") as runner,
    ):
        await setup.declare_streams(admin, setup.StreamSettings())
        async with JetStreamRunQueue(runner, setup.StreamSettings()).pull(agent) as next_requests:
            with tracing.span("request"):
                await JetStreamRunQueue(gateway, setup.StreamSettings()).publish(RunRequest(agent, run))
            (delivery,) = await next_requests(1)
            with instrumentation.attempt(delivery):
                pass
            await delivery.ack()
            assert delivery.age_s is not None
    [request], [attempt] = seen.named("request"), seen.named("run")
    assert parent(attempt) == own(request)


async def test_probes_leave_no_trace(system: LocalSystem, seen: Seen) -> None:
    base = await system.gateway()
    await system.get(f"{base}/health/ready")
    await system.get(f"{base}/metrics")
    assert not seen.all()


TRACED = """
import sys
from rejoin_adapters.process import tracing
from rejoin_adapters.process.tracing import TelemetryOptions
options = tracing.TelemetryOptions(sys.argv[1])
with tracing.export_telemetry("rejoin-test", options), tracing.span("step", agent="demo"):
    pass
"""


async def test_a_collector_gets_the_spans_before_the_process_ends() -> None:
    """In a process of its own: an exporter is for good."""
    got: list[bytes] = []

    async def collect(request: web.Request) -> web.Response:
        got.append(await request.read())
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", collect)
    async with TestServer(app) as collector:
        url = str(collector.make_url("/v1/traces"))
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", TRACED, url, cwd=ROOT)
        assert await process.wait() == 0
    body = b"".join(gzip.decompress(one) if one[:2] == b"\x1f\x8b" else one for one in got)
    assert b"rejoin-test" in body
    assert b"rejoin.agent" in body


def test_without_an_exporter_nothing_is_carried() -> None:
    with tracing.span("anything"):
        assert tracing.request_headers(None) == {}


def test_an_exporter_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "EXPORTER", "rejoin_adapters.no_such_module")
    with (
        pytest.raises(Invalid, match="otel"),
        tracing.export_telemetry("rejoin-gateway", TelemetryOptions("http://127.0.0.1:4318/v1/traces")),
    ):
        pass
