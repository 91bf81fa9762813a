"""Tools that never return, in a real runner process: a drained runner ends all the same, and their runs
continue elsewhere.
"""

import asyncio
import signal
from pathlib import Path

import msgspec
import pytest

from rejoin_runner.agent.agent import Agent
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.scripted_models import SingleCallModel
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import wait_until
from tests.support.system.processes import Command

ENDS_S = 20.0


@pytest.mark.parametrize(
    ("name", "code", "event"),
    [
        ("stuck", 0, "threads_abandoned_at_exit"),
        pytest.param("stubborn", 1, "drain_overdue", marks=pytest.mark.slow),
    ],
)
async def test_a_drained_runner_ends_although_a_tool_does_not(
    system: LocalSystem, tmp_path: Path, name: str, code: int, event: str
) -> None:
    """It names the tool; the run is another runner's, and the outcome of the call is unknown there."""
    base, mark = await system.gateway(), tmp_path / "begun"
    variables = {
        "REJOIN_NATS_URL": system.nats_url,
        "REJOIN_DATABASE_URL": system.database_url,
        "REJOIN_DRAIN_GRACE_S": "0.2",
        "TEST_AGENT": system.agent,
        "TEST_TOOL": name,
        "TEST_BEGUN": str(mark),
    }
    logs, arguments = tmp_path / "logs", ("runner", "tests.support.agents.stuck:agent")

    async def begun() -> bool:
        return mark.exists()

    @tool(name=name, on_crash="report")
    async def mended() -> str:
        """Comes back."""
        return "back"

    async with (
        await Command.start(logs, *arguments, variables=variables) as runner,
        asyncio.TaskGroup() as group,
    ):
        await runner.says('"serving"')
        answer = group.create_task(system.post(base, system.chat(system.fresh("s"), "go")))
        await wait_until(begun, "the call")
        runner.signal(signal.SIGTERM)
        assert await runner.end(ENDS_S) == code, runner.err
        last = msgspec.json.decode(runner.err.splitlines()[-1])
        assert (last["event"], last["tools"]) == (event, [name])
        await system.runner([Agent(name=system.agent, model=SingleCallModel(name, {}), tools=[mended])])
        assert (await answer).text == "Done."
    told = [chunk for chunk in answer.result().chunks if chunk["type"] == "tool-output-error"]
    assert [chunk["errorText"] for chunk in told] == [UNKNOWN_OUTCOME]
