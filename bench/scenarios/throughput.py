"""Live throughput: one event per message, more events than one gateway can forward.

The events are not stored: NATS on the same machine cannot store as many as a gateway can forward.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator

from bench import http_load, nats_baseline, run_logs, servers
from bench.figures import Figure, cpu_s
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store

RUNS = 50


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    events = 4_000 if full else 600
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
    ):
        log = JetStreamRunLog(connection, connection)
        positions = await run_logs.open_runs(log, store, RUNS)
        async with nats_baseline.connect(infrastructure.nats_url) as nats:
            await nats.subscribe(position.run for position in positions)
            used = cpu_s(os.getpid())
            began = await run_logs.write_in_process(infrastructure, positions, events, -1)
            await nats.wait_for(RUNS * events)
        for figure in _both("nats", RUNS * events, time.monotonic() - began, cpu_s(os.getpid()) - used):
            yield figure
        positions = await run_logs.open_runs(log, store, RUNS)
        streams = await http_load.open_streams(
            gateway.base, [http_load.resume_request(position.session) for position in positions]
        )
        used = cpu_s(gateway.pid)
        began = await run_logs.write_in_process(infrastructure, positions, events, -1)
        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.read(len(run_logs.OPENING) + events))
        for figure in _both("rejoin", RUNS * events, time.monotonic() - began, cpu_s(gateway.pid) - used):
            yield figure
        for stream in streams:
            stream.close()
    async with servers.run_baseline() as bare:
        began, used = time.monotonic(), cpu_s(bare.pid)
        await http_load.send_chats(bare.base, [f"{events} every 0 ms"] * RUNS, concurrency=RUNS)
        for figure in _both("bare", RUNS * events, time.monotonic() - began, cpu_s(bare.pid) - used):
            yield figure


def _both(server: str, events: int, seconds: float, used_s: float) -> list[Figure]:
    name = f"live throughput, {RUNS} runs"
    return [
        Figure(name, server, "rate", events / seconds, "events/s"),
        Figure(name, server, "CPU", used_s / events * 1e6, "µs/event"),
    ]
