"""Reconnect storm: the clients of many running runs are cut at once, miss something, and all come back."""

import asyncio
import time
from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import CONCURRENT_READS_MAX, JetStreamRunLog
from rejoin_adapters.postgres import run_store

from bench import load, logs, plain, servers
from bench.figures import Figure

MISSED = 50


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    clients = 1_000 if full else 200
    name = f"reconnect storm, {clients} clients, {MISSED} events missed"
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        nats_connection.connect(found.nats_url, "runner-log") as connection,
        await run_store.open_run_store(found.database_url) as store,
        plain.connect(found.nats_url) as nats,
    ):
        places = await logs.opened(JetStreamRunLog(connection, connection), store, clients)
        streams = await load.follow(gateway.base, [load.rejoin(place.session) for place in places])
        async with asyncio.TaskGroup() as group:
            for one in streams:
                group.create_task(one.until(len(logs.OPENING)))
        for one in streams:
            one.cut()
        await logs.written_apart(found, places, MISSED, 0)
        began, gate = time.monotonic(), asyncio.Semaphore(CONCURRENT_READS_MAX)

        async def read(place: logs.Place) -> None:
            async with gate:
                await nats.read(place.run, after=place.prev)

        async with asyncio.TaskGroup() as group:
            for place in places:
                group.create_task(read(place))
        yield Figure(name, "nats", "all read", time.monotonic() - began, "s")
        began = time.monotonic()
        again = await load.follow(
            gateway.base,
            [load.rejoin(place.session, one.cursor) for place, one in zip(places, streams, strict=True)],
            at_once=clients,
        )
        async with asyncio.TaskGroup() as group:
            for one in again:
                group.create_task(one.until(MISSED))
        yield Figure(name, "rejoin", "all caught up", time.monotonic() - began, "s")
        for one in again:
            one.cut()
