"""The processes of the benchmark start and answer, so that `make bench` measures something."""

import asyncio
import re

import pytest

from bench import http_load, nats_baseline, run_logs, servers
from bench.figures import cpu_by_service_s, memory_by_service_kb
from bench.scenarios.first import TEXT
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store

pytestmark = pytest.mark.slow


async def test_gateway_runner_and_baseline_answer_alike() -> None:
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        servers.run_runner(infrastructure, "bench.agents:clock"),
        servers.run_baseline() as baseline,
    ):
        for base in (gateway.base, baseline.base):  # at once: each server is ready when its context begins
            [reader] = await http_load.send_chats(base, ["3 every 1 ms"], concurrency=1)
            assert reader.done
            assert len(reader.latencies_s) == 3


async def test_an_answer_of_the_provider_reaches_the_client_and_costs_something_in_each_process() -> None:
    async with servers.run_provider() as provider, servers.run_rejoin(provider) as backend:
        await http_load.wait_for_agent(backend.base, "1 every 0 ms", "chat")
        before = cpu_by_service_s(backend.pids)
        for agent in ("chat", "chat-unpaced"):
            readers = await http_load.send_chats(
                backend.base, ["3 every 1 ms"] * 50, concurrency=10, agent=agent
            )
            assert all(reader.done and len(set(reader.tokens_ns)) == 3 for reader in readers)
            assert all(reader.first_s <= reader.first_token_s <= reader.last_s for reader in readers)
        after = cpu_by_service_s(backend.pids)
        assert all(after[service] > before[service] for service in backend.pids)
        assert all(memory_by_service_kb(backend.pids).values())


async def test_a_written_log_reaches_the_stream_and_the_baseline() -> None:
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
        nats_baseline.connect(infrastructure.nats_url) as nats,
    ):
        [position] = await run_logs.open_runs(JetStreamRunLog(connection, connection), store, 1)
        await nats.subscribe([position.run])
        [stream] = await http_load.open_streams(gateway.base, [http_load.resume_request(position.session)])
        await run_logs.write_in_process(infrastructure, [position], events=5, rate=50)
        await nats.wait_for(5)
        await stream.read(len(run_logs.OPENING) + 5)
        assert len(stream.latencies_s) == len(nats.latencies_s) == 5
        assert await nats.read(position.run) == 7  # two messages are the start of the answer
        stream.close()


async def test_the_load_generator_holds_streams_open_at_a_gateway_that_runs_elsewhere() -> None:
    async with (
        asyncio.timeout(60),
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        servers.run_runner(infrastructure, "bench.agents:clock"),
    ):
        await http_load.wait_for_agent(gateway.base, TEXT)
        options = ("--streams", "5", "--agent", "clock", "--text", "200 every 100 ms")
        async with servers.run_python("-m", "bench.open_streams", gateway.base, *options) as load:
            assert load.stdout is not None
            while not re.fullmatch(
                rb"5 open, 0 refused, 0 cut, [1-9]\d+ events/s\n", await load.stdout.readline()
            ):
                pass
