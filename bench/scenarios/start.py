"""Start: `rejoin dev` on an empty directory and on one that was used before, and what an import costs."""

import sys
import time
from asyncio import create_subprocess_exec
from collections.abc import AsyncIterator

from bench import servers
from bench.figures import Figure


async def figures(*, full: bool) -> AsyncIterator[Figure]:
    """See the package."""
    with servers.empty() as directory:
        for name in ("cold", "warm"):
            async with servers.dev(directory) as seconds:
                yield Figure("start", "rejoin dev", name, seconds, "s")
    for module in ("asyncio", "gateway.app", "runner.app"):
        took = []
        for _ in range(10 if full else 4):
            began = time.monotonic()
            await (await create_subprocess_exec(sys.executable, "-c", f"import {module}")).wait()
            took.append(time.monotonic() - began)
        yield Figure("start", "import", module, min(took), "s")
