"""Open streams: memory and CPU time of many streams of idle runs, in the gateway and in NATS."""

import asyncio
import time
from collections.abc import AsyncIterator

from bench import http_load, run_logs, servers
from bench.figures import Figure, cpu_s, memory_kb
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store

WARM = 100
SETTLE_S = 3.0
IDLE_S = 16.0
"""After this time without a record, the gateway checks a run at its longest interval."""


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    count, seconds = (5_000, 20.0) if full else (1_000, 6.0)
    name = f"open streams, {count} idle"
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
    ):
        positions = await run_logs.open_runs(JetStreamRunLog(connection, connection), store, count + WARM)
        pids = {"gateway": gateway.pid, "broker": infrastructure.nats.pid}
        requests = [http_load.resume_request(position.session) for position in positions]
        streams = await http_load.open_streams(gateway.base, requests[:WARM])
        await asyncio.sleep(SETTLE_S)
        before = {service: memory_kb(pid) for service, pid in pids.items()}
        streams += await http_load.open_streams(gateway.base, requests[WARM:])
        await asyncio.sleep(SETTLE_S)
        for service, pid in pids.items():
            each = (memory_kb(pid) - before[service]) / count
            yield Figure(name, "rejoin", f"{service} memory", each, "KB each")
        await asyncio.sleep(IDLE_S)
        began, used = time.monotonic(), cpu_s(gateway.pid)
        await asyncio.sleep(seconds)
        share = (cpu_s(gateway.pid) - used) / (time.monotonic() - began)
        yield Figure(name, "rejoin", "gateway CPU", share * 100, "% of a core")
        for stream in streams:
            stream.close()
