"""Live latency: append to client read, of many runs through one gateway, beside nats-py in its place."""

import asyncio
from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres import run_store

from bench import load, logs, plain, servers
from bench.figures import Figure, spread

RATE = 10


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    runs, seconds = (500, 10) if full else (150, 4)
    name = f"live latency, {runs} runs at {RATE}/s"
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        nats_connection.connect(found.nats_url, "runner-log") as connection,
        await run_store.open_run_store(found.database_url) as store,
    ):
        log = JetStreamRunLog(connection, connection)
        places = await logs.opened(log, store, runs)
        async with plain.connect(found.nats_url) as nats:
            await nats.follow(place.run for place in places)
            await logs.written_apart(found, places, seconds * RATE, RATE)
            await nats.until(runs * seconds * RATE)
        for figure in spread(name, "nats", nats.latencies_s):
            yield figure
        places = await logs.opened(log, store, runs)
        streams = await load.follow(gateway.base, [load.rejoin(place.session) for place in places])
        await logs.written_apart(found, places, seconds * RATE, RATE)
        async with asyncio.TaskGroup() as group:
            for one in streams:
                group.create_task(one.until(len(logs.OPENING) + seconds * RATE))
        for figure in spread(name, "rejoin", [late for one in streams for late in one.latencies_s]):
            yield figure
        for one in streams:
            one.cut()
