"""Background tasks for the time of a block. The only form of concurrency here besides `asyncio.TaskGroup`."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def run_alongside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` during the block. It is cancelled at the end of the block; if it fails, the block is
    cancelled.

    A single exception is raised as it is, not in a group: the caller need not know of the tasks.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in work]
            yield
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) > 1:
            raise
        raise errors.exceptions[0] from None
