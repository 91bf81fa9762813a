"""Replay: a long run from its beginning to one client, one event to a message and coalesced."""

import time
from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres import run_store

from bench import load, logs, plain, servers
from bench.figures import Figure, cpu_s

COALESCED = 100
REPEATS = 20


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    events = 10_000 if full else 4_000
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        nats_connection.connect(found.nats_url, "runner-log") as connection,
        await run_store.open_run_store(found.database_url) as store,
        plain.connect(found.nats_url) as nats,
    ):
        log = JetStreamRunLog(connection, connection)
        for size in (1, COALESCED):
            [place] = await logs.opened(log, store, 1)
            await logs.write(log, place, events, size=size)
            name = f"replay of {events} events, {size} a message"
            best = dict.fromkeys(("nats", "rejoin"), 1e9)
            used = cpu_s(gateway.pid)
            for _ in range(REPEATS):
                began = time.monotonic()
                await nats.read(place.run)
                best["nats"] = min(best["nats"], time.monotonic() - began)
                heard = await load.ask(gateway.base, load.rejoin(place.session), timed=False)
                await heard.until(len(logs.OPENING) + events)
                best["rejoin"] = min(best["rejoin"], heard.last_s)
                heard.cut()
            for server, seconds in best.items():
                yield Figure(name, server, "rate", events / seconds, "events/s")
            used_us = (cpu_s(gateway.pid) - used) / REPEATS / events * 1e6
            yield Figure(name, "rejoin", "CPU", used_us, "µs/event")
