"""Two steps, three tools, one approval: the runner's process gets SIGKILL at one append after the other, and
the next runner completes the run.

`test_three_tools` hits every point exactly. `REJOIN_KILLS` is the number of appends, spread evenly; each
takes about four seconds.
"""

import asyncio
import os
import secrets
from pathlib import Path

import pytest

from tests.support.clients.full_answer import collect_answer
from tests.support.faults.killed_runners import ACK_WAIT_S, killed_at, runner_process, spread_kills
from tests.support.models.three_tools import build_agent, check, runs_in, write_to
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import read_log

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120 + 15 * int(os.environ.get("REJOIN_KILLS", "3"))),
]
KILLS = int(os.environ.get("REJOIN_KILLS", "3"))


@pytest.mark.feature("F62", "F71", "F85", "F88")
async def test_its_process_was_killed_at_an_append(system: LocalSystem, tmp_path: Path) -> None:
    base = await system.gateway()
    await system.runner([build_agent(system.agent, write_to(tmp_path / "whole"))])
    first = (await collect_answer(system, base, "go")).responses[0]
    total = len(await read_log(system.nats_url, first.headers["x-workflow-run-id"]))
    for at in spread_kills(total, KILLS):
        system.agent, ledger = f"killed-{secrets.token_hex(4)}", tmp_path / f"ledger-{at}"
        base = await system.gateway()  # whose default agent it is
        async with (
            runner_process(
                system, tmp_path / f"logs-{at}", "killed_three_tools", TEST_LEDGER=str(ledger)
            ) as process,
            killed_at(system.nats_url, process, at) as dead,
            asyncio.TaskGroup() as group,
        ):
            told = group.create_task(collect_answer(system, base, "go"))
            await dead.wait()
            await system.runner([build_agent(system.agent, write_to(ledger))], ack_wait_s=ACK_WAIT_S)
            heard = await told
        runs, keys = runs_in(ledger)
        check(heard.message, runs, f"killed at record {at} of {total}")
        assert len(keys) == len(runs), f"killed at record {at} of {total}: a repeated call has the same key"
