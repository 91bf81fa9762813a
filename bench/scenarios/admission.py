"""Admission: messages accepted per second, with PostgreSQL and the queue, while no runner takes them."""

import time
from collections.abc import AsyncIterator

from bench import http_load, servers
from bench.figures import Figure, cpu_with_children_s
from rejoin_adapters.jetstream import nats_connection
from rejoin_adapters.jetstream.agent_registry import JetStreamAgentRegistry
from rejoin_protocol.ids import AgentName
from rejoin_protocol.run_request import AgentEntry

CONCURRENCY = 20


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    total = 2_000 if full else 400
    async with (
        servers.run_infrastructure() as infrastructure,
        servers.run_gateway(infrastructure) as gateway,
        nats_connection.connect(infrastructure.nats_url, "runner-queue") as connection,
    ):
        await JetStreamAgentRegistry(connection).announce(AgentEntry(name=AgentName("clock")))
        warm = await http_load.open_streams(
            gateway.base, [http_load.chat_request("hello") for _ in range(CONCURRENCY)]
        )
        requests = [http_load.chat_request("hello") for _ in range(total)]
        pids = {
            "gateway": gateway.pid,
            "broker": infrastructure.nats.pid,
            "database": infrastructure.postgres.pid,
        }
        began, before = time.monotonic(), {service: cpu_with_children_s(pid) for service, pid in pids.items()}
        streams = await http_load.open_streams(gateway.base, requests, concurrency=CONCURRENCY)
        yield Figure("admission", "rejoin", "rate", total / (time.monotonic() - began), "POSTs/s")
        for service, pid in pids.items():
            used_ms = (cpu_with_children_s(pid) - before[service]) * 1_000 / total
            yield Figure("admission", service, "CPU", used_ms, "ms/POST")
        for stream in (*warm, *streams):
            stream.close()
