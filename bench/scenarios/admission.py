"""Admission: POSTs accepted a second, with the database and the queue, while no runner takes them."""

import time
from collections.abc import AsyncIterator

from bench import load, servers
from bench.figures import Figure, cpu_s
from protocol.adapters import broker
from protocol.adapters.agents import JetStreamAgents
from protocol.commands import AgentEntry
from protocol.ids import AgentName

AT_ONCE = 20


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    total = 2_000 if full else 400
    async with (
        servers.backing() as found,
        servers.gateway(found) as gateway,
        broker.connect(found.nats_url, "runner-queue") as connection,
    ):
        await JetStreamAgents(connection).announce(AgentEntry(name=AgentName("clock")))
        warm = await load.follow(gateway.base, [load.post("hello") for _ in range(AT_ONCE)])
        requests = [load.post("hello") for _ in range(total)]
        began, used, broker_s = time.monotonic(), cpu_s(gateway.pid), cpu_s(found.nats.pid)
        heard = await load.follow(gateway.base, requests, at_once=AT_ONCE)
        rate = total / (time.monotonic() - began)
        yield Figure("admission", "rejoin", "rate", rate, "POSTs/s")
        yield Figure("admission", "gateway", "CPU", (cpu_s(gateway.pid) - used) / total * 1e3, "ms/POST")
        yield Figure(
            "admission", "broker", "CPU", (cpu_s(found.nats.pid) - broker_s) / total * 1e3, "ms/POST"
        )
        for one in (*warm, *heard):
            one.cut()
