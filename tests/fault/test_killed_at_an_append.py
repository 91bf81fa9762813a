"""Two steps, three tools, one approval: the runner's process is killed with SIGKILL at one append of its log
after the other, and whoever comes next ends the run as if nothing had been.

The kill follows the record that the broker republishes by less than a millisecond: the process may have gone
a little further, which is what a kill in the field looks like. `test_three_tools` hits every seam exactly.
`REJOIN_KILLS` says at how many of the appends, spread evenly; all of them take about four seconds each.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from protocol import names
from protocol.ids import RunId
from runner.acting import UNKNOWN_OUTCOME
from tests.fault.test_every_append import answer, check_events
from tests.killed_three import TOOLS, agent_of, runs_in
from tests.observe import stored
from tests.rig import Rig

pytestmark = pytest.mark.timeout(120 + 15 * int(os.environ.get("REJOIN_KILLS", "3")))
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("REJOIN_KILLS", "3"))
ACK_WAIT_S = "1"
READY_S = 60.0
"""In which a runner has said what it serves; two shared cores may be slow."""


@asynccontextmanager
async def victim(rig: Rig, ledger: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A runner process, once a gateway knows its agent."""
    named = {"REJOIN_NATS_URL": rig.nats_url, "REJOIN_DATABASE_URL": rig.database_url}
    named |= {"TEST_AGENT": rig.agent, "TEST_LEDGER": str(ledger), "REJOIN_ACK_WAIT_S": ACK_WAIT_S}
    kept = {name: os.environ[name] for name in ("HOME", "PATH") if name in os.environ}
    one = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runner", "tests.killed_three:agent"),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=kept | named,
    )
    try:
        assert one.stderr is not None
        said = b""
        async with asyncio.timeout(READY_S):
            while b'"serving"' not in said:
                line = await one.stderr.readline()
                assert line, said.decode()
                said += line
        yield one
    finally:
        if one.returncode is None:
            one.kill()
        await one.wait()


@asynccontextmanager
async def killed_at(
    nats_url: str, process: asyncio.subprocess.Process, at: int
) -> AsyncIterator[asyncio.Event]:
    """Kill it as soon as the broker has the record number `at` of whichever run comes first."""
    seen, dead = 0, asyncio.Event()

    async def count(_: Msg) -> None:
        nonlocal seen
        seen += 1
        if seen == at + 1 and process.returncode is None:
            process.send_signal(signal.SIGKILL)
            dead.set()

    connection = await nats.connect(nats_url)
    try:
        await connection.subscribe(names.live(RunId("*")), cb=count)
        await connection.flush()
        yield dead
    finally:
        await connection.close()


async def test_f62_f71_f85_f88_its_process_was_killed_at_an_append(rig: Rig, tmp_path: Path) -> None:
    """F62, F71, F85, F88."""
    base = await rig.gateway()
    await rig.runner([agent_of(rig.agent, tmp_path / "whole")])
    _, [first, *_] = await answer(rig, base, "go")
    total = len(await stored(rig.nats_url, first.headers["x-workflow-run-id"]))
    for at in sorted({round(one * (total - 2) / max(KILLS - 1, 1)) for one in range(KILLS)}):
        rig.agent, ledger = f"killed-{secrets.token_hex(4)}", tmp_path / f"ledger-{at}"
        base = await rig.gateway()  # whose default agent it is
        async with (
            victim(rig, ledger) as process,
            killed_at(rig.nats_url, process, at) as dead,
            asyncio.TaskGroup() as group,
        ):
            told = group.create_task(answer(rig, base, "go"))
            await dead.wait()
            await rig.runner([agent_of(rig.agent, ledger)], ack_wait_s=float(ACK_WAIT_S))
            message, responses = await told
            check_events(message, responses)
            check(message, ledger, f"killed at record {at} of {total}")


def check(message: dict[str, object], ledger: Path, where: str) -> None:
    """Each tool has its result, or was begun once at most and is said to be of unknown outcome."""
    parts: list[dict[str, object]] = message["parts"]  # type: ignore[assignment]
    runs, keys = runs_in(ledger)
    called = {str(part["type"]).removeprefix("tool-"): part for part in parts}
    assert called["look"]["output"] == "seen", where
    for name, output in (("stamp", "stamped"), ("delete", "deleted")):
        assert runs[name] <= 1, (where, runs)
        told = called[name].get("output") or called[name].get("errorText")
        assert told == (output if "output" in called[name] else UNKNOWN_OUTCOME), where
        assert runs[name] == 1 or told == UNKNOWN_OUTCOME, (where, runs)
    assert len(keys) == len(runs), f"{where}: a repeated call has the same key"
    said = [str(part["text"]) for part in parts if part["type"] == "text"]
    assert said[-1].count("output-") == len(TOOLS), where
