"""A tool that blocks the event loop of a real runner process is told of, and costs its run a takeover."""

import asyncio
import signal
from pathlib import Path

import msgspec
from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool import tool

from tests.support.observe import until
from tests.support.processes import Command
from tests.support.rig import Rig
from tests.support.scripted_models import Calls


async def test_a_runner_whose_loop_is_blocked_says_by_whom_and_its_run_is_taken_over(
    rig: Rig, tmp_path: Path
) -> None:
    """It does not hear that it is to end; whoever looks for the reason finds it in its log."""
    base, mark = await rig.gateway(), tmp_path / "begun"
    variables = rig.variables(TEST_AGENT=rig.agent, TEST_BEGUN=str(mark))

    @tool(name="greedy")
    async def mended() -> str:
        """Comes back."""
        return "back"

    async with (
        await Command.start(
            tmp_path / "logs", "runner", "tests.support.agents.greedy:agent", variables=variables
        ) as runner,
        asyncio.TaskGroup() as group,
    ):
        await runner.says('"serving"')
        answer = group.create_task(rig.post(base, rig.chat(rig.fresh("s"), "go")))
        await until(mark.exists, "the call")
        runner.signal(signal.SIGTERM)
        await runner.says('"tool greedy"')
        assert runner.running
        [told] = [msgspec.json.decode(line) for line in runner.err.splitlines() if '"tool greedy"' in line]
        assert told["event"] == "event_loop_blocked"
        assert "greedy_agents.py:" in told["where"][0]
        await rig.runner([Agent(name=rig.agent, model=Calls("greedy", {}), tools=[mended])])
        assert (await answer).text == "Done."
