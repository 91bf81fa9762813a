"""Reconnect storm: the clients of many runs lose their connections, miss events, and reconnect at once."""

import asyncio
import time
from collections.abc import AsyncIterator

from bench import http_load, nats_baseline, run_logs, servers
from bench.figures import Figure
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import CONCURRENT_LOG_READS_MAX, JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store

MISSED = 50


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    clients = 1_000 if full else 200
    name = f"reconnect storm, {clients} clients, {MISSED} events missed"
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
        nats_baseline.connect(infrastructure.nats_url) as nats,
    ):
        positions = await run_logs.open_runs(JetStreamRunLog(connection, connection), store, clients)
        streams = await http_load.open_streams(
            gateway.base, [http_load.resume_request(position.session) for position in positions]
        )
        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.read(len(run_logs.OPENING)))
        for stream in streams:
            stream.close()
        await run_logs.write_in_process(infrastructure, positions, MISSED, 0)
        began, slots = time.monotonic(), asyncio.Semaphore(CONCURRENT_LOG_READS_MAX)

        async def read(position: run_logs.LogPosition) -> None:
            async with slots:
                await nats.read(position.run, after=position.prev)

        async with asyncio.TaskGroup() as group:
            for position in positions:
                group.create_task(read(position))
        yield Figure(name, "nats", "all read", time.monotonic() - began, "s")
        began = time.monotonic()
        resumed = await http_load.open_streams(
            gateway.base,
            [
                http_load.resume_request(position.session, stream.cursor)
                for position, stream in zip(positions, streams, strict=True)
            ],
            concurrency=clients,
        )
        async with asyncio.TaskGroup() as group:
            for stream in resumed:
                group.create_task(stream.read(MISSED))
        yield Figure(name, "rejoin", "all caught up", time.monotonic() - began, "s")
        for stream in resumed:
            stream.close()
