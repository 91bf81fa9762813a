"""Open streams: memory and CPU time of chats whose provider is silent after a token, in all processes.

Memory is proportional (PSS): what processes share counts once.
"""

import asyncio
import time
from collections.abc import AsyncIterator

from bench import http_load, servers
from bench.figures import Figure, cpu_by_service_s, memory_by_service_kb
from bench.servers import Backend

AGENT = "chat"
SILENT = "2 every 3600000 ms"
WARM, CHATS = 100, 1_000
SETTLE_S = 3.0
IDLE_S = 16.0
"""After this time without a record, the gateway checks a run at its longest interval."""


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    async with servers.run_provider() as provider, servers.run_rejoin(provider) as backend:
        async for figure in measure(backend, full=full):
            yield figure


async def measure(backend: Backend, *, full: bool) -> AsyncIterator[Figure]:
    """Measure a backend."""
    title = f"open streams, {CHATS} idle"
    await http_load.wait_for_agent(backend.base, "1 every 0 ms", AGENT)
    streams = await _open_chats(backend, WARM)
    before = memory_by_service_kb(backend.pids)
    streams += await _open_chats(backend, CHATS)
    after = memory_by_service_kb(backend.pids)
    shares = {service: (after[service] - before[service]) / CHATS for service in after}
    yield Figure(title, backend.name, "memory", sum(shares.values()), "KB each")
    for service, share in shares.items():
        yield Figure(title, backend.name, f"memory {service}", share, "KB each")
    await asyncio.sleep(IDLE_S)
    began, used_s = time.monotonic(), cpu_by_service_s(backend.pids)
    await asyncio.sleep(20.0 if full else 6.0)
    seconds, now_s = time.monotonic() - began, cpu_by_service_s(backend.pids)
    cores = {service: (now_s[service] - used_s[service]) / seconds for service in now_s}
    yield Figure(title, backend.name, "CPU", sum(cores.values()), "cores")
    for service, share in cores.items():
        yield Figure(title, backend.name, f"CPU {service}", share, "cores")
    for stream in streams:
        stream.close()


async def _open_chats(backend: Backend, count: int) -> list[http_load.StreamReader]:
    """Chats of which each has an event."""
    requests = [http_load.chat_request(SILENT, AGENT) for _ in range(count)]
    streams = await http_load.open_streams(backend.base, requests)
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(stream.read(events=1))
    await asyncio.sleep(SETTLE_S)
    return streams
