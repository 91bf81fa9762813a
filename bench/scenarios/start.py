"""Start: `rejoin dev` with an empty and with a used data directory, and the import time of the services.

The fastest of several starts counts, because other load can only slow a start down. Bytecode is cached.
"""

import time
from collections.abc import AsyncIterator

from bench import servers
from bench.figures import Figure

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
