"""Runner processes that get SIGKILL as soon as the broker has a certain record of a run's log.

The kill follows the record that the broker republishes by less than a millisecond, so the process may have
gone a little further, as with a kill in production. `crashing_runners` hits every point exactly.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
from nats.aio.msg import Msg

from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import RunId
from rejoin_runner.agent.agent import Agent
from tests.support.system.local_system import LocalSystem
from tests.support.system.processes import Command

ACK_WAIT_S = 1.0
"""Of the process and of the runner that takes over."""
READY_S = 60.0
"""In which a runner has said what it serves; two shared cores may be slow."""


@asynccontextmanager
async def runner_process(
    system: LocalSystem, logs: Path, agent: str, package: str = "tests.support.agents", **variables: str
) -> AsyncIterator[Command]:
    """A runner of its own process, once it serves. `agent`: the attribute `agent` of a module of `package`,
    which reads its name from `TEST_AGENT`.
    """
    async with await Command.start(
        logs,
        f"{package}.{agent}:agent",
        variables=system.variables(REJOIN_ACK_WAIT_S=str(ACK_WAIT_S), TEST_AGENT=system.agent, **variables),
        module="rejoin_runner",
    ) as process:
        await process.says('"serving"', READY_S)
        yield process


@asynccontextmanager
async def killed_at(nats_url: str, process: Command, at: int) -> AsyncIterator[asyncio.Event]:
    """Kill it as soon as the broker has the record number `at` of whichever run comes first."""
    seen, dead = 0, asyncio.Event()

    async def count(_: Msg) -> None:
        nonlocal seen
        seen += 1
        if seen == at + 1 and process.running:
            process.signal(signal.SIGKILL)
            dead.set()

    connection = await nats.connect(nats_url)
    try:
        await connection.subscribe(subjects.DEFAULT.live(RunId("*")), cb=count)
        await connection.flush()
        yield dead
    finally:
        await connection.close()


async def played_over_kill[T](
    system: LocalSystem,
    logs: Path,
    module: str,
    agent: Agent,
    at: int,
    play: Coroutine[Any, Any, T],
    **variables: str,
) -> T:
    """What `play` returns. The runner process that serves it gets SIGKILL at record `at`; then a runner in
    this process serves `agent`, which is the same. `module`, `variables`: see `runner_process`.
    """
    async with (
        runner_process(system, logs, module, **variables) as process,
        killed_at(system.nats_url, process, at) as dead,
        asyncio.TaskGroup() as group,
    ):
        played = group.create_task(play)
        await dead.wait()
        await system.runner([agent], ack_wait_s=ACK_WAIT_S)
    return played.result()


def spread_kills(total: int, kills: int) -> Sequence[int]:
    """Record numbers of a log of `total` records, `kills` at the most, evenly from its first to its last but
    one.
    """
    return sorted({round(one * (total - 2) / max(kills - 1, 1)) for one in range(kills)})
