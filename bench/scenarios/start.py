"""Start: `rejoin dev` on an empty directory and on one that was used before, and what an import costs.

The fastest of a few: what else the machine does only adds to it. Bytecode is there.
"""

import time
from collections.abc import AsyncIterator

from bench import servers
from bench.figures import Figure

WARM_STARTS = 3


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    with servers.empty() as directory:
        took = []
        for _ in range(1 + WARM_STARTS):
            async with servers.dev(directory) as seconds:
                took.append(seconds)
        yield Figure("start", "rejoin dev", "cold", took[0], "s")
        yield Figure("start", "rejoin dev", "warm", min(took[1:]), "s")
    for module in ("asyncio", "rejoin_gateway.app", "rejoin_runner.app"):
        yield Figure(
            "start", "import", module, await _fastest(10 if full else 4, "-c", f"import {module}"), "s"
        )
    yield Figure("start", "rejoin", "--help", await _fastest(4, "-m", "rejoin", "--help"), "s")


async def _fastest(times: int, *arguments: str) -> float:
    """The least seconds that a Python with these arguments took."""
    took = []
    for _ in range(times):
        began = time.monotonic()
        async with servers.process(*arguments) as child:
            await child.communicate()
        took.append(time.monotonic() - began)
    return min(took)
