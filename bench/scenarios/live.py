"""Live latency: from the append to the client, for many runs through one gateway, beside nats-py alone."""

import asyncio
from collections.abc import AsyncIterator

from bench import http_load, nats_baseline, run_logs, servers
from bench.figures import Figure, latency_figures
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store

RATE = 10


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    runs, seconds = (500, 10) if full else (150, 4)
    name = f"live latency, {runs} runs at {RATE}/s"
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
    ):
        log = JetStreamRunLog(connection, connection)
        positions = await run_logs.open_runs(log, store, runs)
        async with nats_baseline.connect(infrastructure.nats_url) as nats:
            await nats.subscribe(position.run for position in positions)
            await run_logs.write_in_process(infrastructure, positions, seconds * RATE, RATE)
            await nats.wait_for(runs * seconds * RATE)
        for figure in latency_figures(name, "nats", nats.latencies_s):
            yield figure
        positions = await run_logs.open_runs(log, store, runs)
        streams = await http_load.open_streams(
            gateway.base, [http_load.resume_request(position.session) for position in positions]
        )
        await run_logs.write_in_process(infrastructure, positions, seconds * RATE, RATE)
        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.read(len(run_logs.OPENING) + seconds * RATE))
        for figure in latency_figures(
            name, "rejoin", [latency_s for stream in streams for latency_s in stream.latencies_s]
        ):
            yield figure
        for stream in streams:
            stream.close()
