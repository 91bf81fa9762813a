"""Two steps, three tools, one approval: the runner's process gets SIGKILL at one append after the other, and
the next runner completes the run.

The kill follows the record that the broker republishes by less than a millisecond, so the process may have
gone a little further, as with a kill in production. `test_three_tools` hits every point exactly.
`REJOIN_KILLS` is the number of appends, spread evenly; each takes about four seconds.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from rejoin_protocol.broker import subjects
from rejoin_protocol.ids import RunId
from tests.support.clients.full_answer import collect_answer
from tests.support.models.three_tools import build_agent, check, runs_in, write_to
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log
from tests.support.system.processes import Command

pytestmark = pytest.mark.timeout(120 + 15 * int(os.environ.get("REJOIN_KILLS", "3")))
KILLS = int(os.environ.get("REJOIN_KILLS", "3"))
ACK_WAIT_S = "1"
READY_S = 60.0
"""In which a runner has said what it serves; two shared cores may be slow."""


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
        await connection.subscribe(subjects.live(RunId("*")), cb=count)
        await connection.flush()
        yield dead
    finally:
        await connection.close()


@pytest.mark.feature("F62", "F71", "F85", "F88")
async def test_its_process_was_killed_at_an_append(system: LocalSystem, tmp_path: Path) -> None:
    base = await system.gateway()
    await system.runner([build_agent(system.agent, write_to(tmp_path / "whole"))])
    first = (await collect_answer(system, base, "go")).responses[0]
    total = len(await read_log(system.nats_url, first.headers["x-workflow-run-id"]))
    for at in sorted({round(one * (total - 2) / max(KILLS - 1, 1)) for one in range(KILLS)}):
        system.agent, ledger = f"killed-{secrets.token_hex(4)}", tmp_path / f"ledger-{at}"
        base = await system.gateway()  # whose default agent it is
        variables = system.variables(
            REJOIN_ACK_WAIT_S=ACK_WAIT_S, TEST_AGENT=system.agent, TEST_LEDGER=str(ledger)
        )
        async with (
            await Command.start(
                tmp_path / f"logs-{at}",
                "tests.support.agents.killed_three_tools:agent",
                variables=variables,
                module="rejoin_runner",
            ) as process,
            killed_at(system.nats_url, process, at) as dead,
            asyncio.TaskGroup() as group,
        ):
            await process.says('"serving"', READY_S)
            told = group.create_task(collect_answer(system, base, "go"))
            await dead.wait()
            await system.runner([build_agent(system.agent, write_to(ledger))], ack_wait_s=float(ACK_WAIT_S))
            heard = await told
        runs, keys = runs_in(ledger)
        check(heard.message, runs, f"killed at record {at} of {total}")
        assert len(keys) == len(runs), f"killed at record {at} of {total}: a repeated call has the same key"
