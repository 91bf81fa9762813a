"""Tasks beside a block of code: the one shape of concurrency here besides `asyncio.TaskGroup`."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def run_alongside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` for as long as the block: it is cancelled at the block's end, and the block when it fails.

    What is raised comes out as it was raised, not in a group, as long as it is one thing: the caller of a
    context manager need not know that there are tasks behind it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in work]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as faults:
        if len(faults.exceptions) > 1:
            raise
        raise faults.exceptions[0] from None
