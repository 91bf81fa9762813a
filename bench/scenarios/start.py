"""Start: `rejoin dev` with an empty and with a used data directory, and the import time of the services.

The fastest of several starts counts, because other load can only slow a start down. Bytecode is cached.
"""

import time
from collections.abc import AsyncIterator

from bench import http_load, servers
from bench.figures import Figure, memory_by_service_kb
from bench.servers import Backend

WARM_STARTS = 3


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """The figures of this scenario."""
    with servers.data_directory() as directory:
        durations_s = []
        for _ in range(1 + WARM_STARTS):
            async with servers.run_dev(directory) as seconds:
                durations_s.append(seconds)
        yield Figure("start", "rejoin dev", "cold", durations_s[0], "s")
        yield Figure("start", "rejoin dev", "warm", min(durations_s[1:]), "s")
    for module in ("asyncio", "rejoin_gateway.app", "rejoin_runner.app"):
        yield Figure(
            "start", "import", module, await _fastest(10 if full else 4, "-c", f"import {module}"), "s"
        )
    yield Figure("start", "rejoin", "--help", await _fastest(4, "-m", "rejoin", "--help"), "s")


async def _fastest(times: int, *arguments: str) -> float:
    """The shortest run time of Python with these arguments, in seconds."""
    durations_s = []
    for _ in range(times):
        began = time.monotonic()
        async with servers.run_python(*arguments) as child:
            await child.communicate()
        durations_s.append(time.monotonic() - began)
    return min(durations_s)


async def measure(backend: Backend, *, full: bool) -> AsyncIterator[Figure]:  # noqa: ARG001
    """A peer, whose packages are installed: until the end of its first answer, and its memory then."""
    await http_load.wait_for_agent(backend.base, "1 every 0 ms")
    yield Figure("start", "first answer", backend.name, time.monotonic() - backend.started_s, "s")
    memory_kb = sum(memory_by_service_kb(backend.pids).values())
    yield Figure("base memory", backend.name, "memory", memory_kb / 1024, "MB")
