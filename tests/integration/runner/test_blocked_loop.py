"""A tool that blocks the event loop of a real runner process is logged, and its run is taken over."""

import asyncio
import signal
from pathlib import Path

import msgspec
import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.processes import Command

pytestmark = pytest.mark.slow


async def test_a_runner_whose_loop_is_blocked_says_by_whom_and_its_run_is_taken_over(
    system: LocalSystem, tmp_path: Path
) -> None:
    """A blocked runner does not react to SIGTERM; its log names the tool that blocks it."""
    base, mark = await system.gateway(), tmp_path / "begun"
    variables = system.variables(TEST_AGENT=system.agent, TEST_BEGUN=str(mark))

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
        answer = group.create_task(system.post(base, system.chat(system.fresh("s"), "go")))
        await wait_until(mark.exists, "the call")
        runner.signal(signal.SIGTERM)
        await runner.says('"tool greedy"')
        assert runner.running
        [told] = [msgspec.json.decode(line) for line in runner.err.splitlines() if '"tool greedy"' in line]
        assert told["event"] == "event_loop_blocked"
        assert "greedy.py:" in told["where"][0]
        await system.runner([Agent(name=system.agent, model=SingleCallModel("greedy", {}), tools=[mended])])
        assert (await answer).text == "Done."
