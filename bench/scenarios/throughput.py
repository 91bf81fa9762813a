"""Live throughput: one event to a message, more than one gateway can follow, which is saturated by them.

They are not stored: no broker on the same machine stores as much as a gateway passes on.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres import run_store

from bench import load, logs, plain, servers
from bench.figures import Figure, cpu_s

RUNS = 50


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    events = 4_000 if full else 600
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        nats_connection.connect(found.nats_url, "runner-log") as connection,
        await run_store.open_run_store(found.database_url) as store,
    ):
        log = JetStreamRunLog(connection, connection)
        places = await logs.opened(log, store, RUNS)
        async with plain.connect(found.nats_url) as nats:
            await nats.follow(place.run for place in places)
            used = cpu_s(os.getpid())
            began = await logs.written_apart(found, places, events, -1)
            await nats.until(RUNS * events)
        for figure in _both("nats", RUNS * events, time.monotonic() - began, cpu_s(os.getpid()) - used):
            yield figure
        places = await logs.opened(log, store, RUNS)
        streams = await load.follow(gateway.base, [load.rejoin(place.session) for place in places])
        used = cpu_s(gateway.pid)
        began = await logs.written_apart(found, places, events, -1)
        async with asyncio.TaskGroup() as group:
            for one in streams:
                group.create_task(one.until(len(logs.OPENING) + events))
        for figure in _both("rejoin", RUNS * events, time.monotonic() - began, cpu_s(gateway.pid) - used):
            yield figure
        for one in streams:
            one.cut()
    async with servers.bare() as bare:
        began, used = time.monotonic(), cpu_s(bare.pid)
        await load.asks(bare.base, [f"{events} every 0 ms"] * RUNS, at_once=RUNS)
        for figure in _both("bare", RUNS * events, time.monotonic() - began, cpu_s(bare.pid) - used):
            yield figure


def _both(server: str, events: int, seconds: float, used_s: float) -> list[Figure]:
    name = f"live throughput, {RUNS} runs"
    return [
        Figure(name, server, "rate", events / seconds, "events/s"),
        Figure(name, server, "CPU", used_s / events * 1e6, "µs/event"),
    ]
