"""Admission: POSTs accepted a second, with the database and the queue, while no runner takes them."""

import time
from collections.abc import AsyncIterator

from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry

from bench import load, servers
from bench.figures import Figure, family_cpu_s

AT_ONCE = 20


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    total = 2_000 if full else 400
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        nats_connection.connect(found.nats_url, "runner-queue") as connection,
    ):
        await JetStreamAgentRegistry(connection).announce(AgentEntry(name=AgentName("clock")))
        warm = await load.follow(gateway.base, [load.post("hello") for _ in range(AT_ONCE)])
        requests = [load.post("hello") for _ in range(total)]
        pids = {"gateway": gateway.pid, "broker": found.nats.pid, "database": found.postgres.pid}
        began, before = time.monotonic(), {service: family_cpu_s(pid) for service, pid in pids.items()}
        heard = await load.follow(gateway.base, requests, at_once=AT_ONCE)
        yield Figure("admission", "rejoin", "rate", total / (time.monotonic() - began), "POSTs/s")
        for service, pid in pids.items():
            used_ms = (family_cpu_s(pid) - before[service]) * 1_000 / total
            yield Figure("admission", service, "CPU", used_ms, "ms/POST")
        for one in (*warm, *heard):
            one.cut()
