"""Short runs: answers of 20 tokens without pauses, from a provider over HTTP, to 50 clients.

Each client sends the next message as soon as it has an answer. Measures the runs per second, and the CPU time
of one.
"""

import time
from collections.abc import AsyncIterator

from bench import http_load, servers
from bench.figures import Figure, cpu_by_service_s, cpu_figures
from bench.servers import Backend

TEXT = "20 every 0 ms"
CLIENTS = 50


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    async with servers.run_provider() as provider, servers.run_rejoin(provider) as backend:
        async for figure in measure(backend, full=full):
            yield figure


async def measure(backend: Backend, *, full: bool) -> AsyncIterator[Figure]:
    """Measure a backend, after some runs that do not count."""
    runs = 3_000 if full else 1_000
    await http_load.wait_for_agent(backend.base, TEXT, "chat")
    await http_load.send_chats(backend.base, [TEXT] * 2 * CLIENTS, concurrency=CLIENTS, agent="chat")
    began, before = time.monotonic(), cpu_by_service_s(backend.pids)
    await http_load.send_chats(backend.base, [TEXT] * runs, concurrency=CLIENTS, agent="chat")
    yield Figure("short runs", backend.name, "rate", runs / (time.monotonic() - began), "runs/s")
    after = cpu_by_service_s(backend.pids)
    shares = {service: (after[service] - before[service]) * 1_000 / runs for service in after}
    for figure in cpu_figures("short runs", backend.name, shares, "ms/run"):
        yield figure
