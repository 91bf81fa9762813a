"""Replay: a long run from its start to one client, with one event per message and with many."""

import time
from collections.abc import AsyncIterator

from bench import http_load, nats_baseline, run_logs, servers
from bench.figures import Figure, cpu_s
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.run_log import JetStreamRunLog
from rejoin_adapters.postgres.runs import run_store

COALESCED = 100
REPEATS = 20


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    events = 10_000 if full else 4_000
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-log") as connection,
        await run_store.open_run_store(infrastructure.database_url) as store,
        nats_baseline.connect(infrastructure.nats_url) as nats,
    ):
        log = JetStreamRunLog(connection, connection)
        for size in (1, COALESCED):
            [position] = await run_logs.open_runs(log, store, 1)
            await run_logs.write(log, position, events, size=size)
            name = f"replay of {events} events, {size} a message"
            best = dict.fromkeys(("nats", "rejoin"), 1e9)
            used = cpu_s(gateway.pid)
            for _ in range(REPEATS):
                began = time.monotonic()
                await nats.read(position.run)
                best["nats"] = min(best["nats"], time.monotonic() - began)
                stream = await http_load.send(
                    gateway.base, http_load.resume_request(position.session), timed=False
                )
                await stream.read(len(run_logs.OPENING) + events)
                best["rejoin"] = min(best["rejoin"], stream.last_s)
                stream.close()
            for server, seconds in best.items():
                yield Figure(name, server, "rate", events / seconds, "events/s")
            used_us = (cpu_s(gateway.pid) - used) / REPEATS / events * 1e6
            yield Figure(name, "rejoin", "CPU", used_us, "µs/event")
