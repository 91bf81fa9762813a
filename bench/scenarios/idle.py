"""Open streams: what many idle followed runs hold and use, in the gateway and in the broker."""

import asyncio
import time
from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres import run_store

from bench import load, logs, servers
from bench.figures import Figure, cpu_s, memory_kb

WARM = 100
SETTLE_S = 3.0
IDLE_S = 16.0
"""After so long without a record a run is looked after as rarely as it ever is."""


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    count, seconds = (5_000, 20.0) if full else (1_000, 6.0)
    name = f"open streams, {count} idle"
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        nats_connection.connect(found.nats_url, "runner-log") as connection,
        await run_store.open_run_store(found.database_url) as store,
    ):
        places = await logs.opened(JetStreamRunLog(connection, connection), store, count + WARM)
        pids = {"gateway": gateway.pid, "broker": found.nats.pid}
        requests = [load.rejoin(place.session) for place in places]
        streams = await load.follow(gateway.base, requests[:WARM])
        await asyncio.sleep(SETTLE_S)
        before = {service: memory_kb(pid) for service, pid in pids.items()}
        streams += await load.follow(gateway.base, requests[WARM:])
        await asyncio.sleep(SETTLE_S)
        for service, pid in pids.items():
            each = (memory_kb(pid) - before[service]) / count
            yield Figure(name, "rejoin", f"{service} memory", each, "KB each")
        await asyncio.sleep(IDLE_S)
        began, used = time.monotonic(), cpu_s(gateway.pid)
        await asyncio.sleep(seconds)
        share = (cpu_s(gateway.pid) - used) / (time.monotonic() - began)
        yield Figure(name, "rejoin", "gateway CPU", share * 100, "% of a core")
        for one in streams:
            one.cut()
