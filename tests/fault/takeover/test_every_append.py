"""A runner crashes at every single append, before it is stored or after: the answer is always the same.

`tests/support/faults/crashing_runners.py` describes the crash.
"""

import msgspec
import pytest

from rejoin_protocol.ids import RunId
from rejoin_runner.demo import build_demo_agent, weather
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.full_answer import collect_answer, without_varying_fields
from tests.support.faults.crashing_runners import crash_at_append
from tests.support.system.local_system import LocalSystem
from tests.support.system.observation import expire_log


class Shredder:
    """A tool that must not be repeated. It counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def tool(self) -> Tool:
        """Make it a tool."""

        @tool(needs_approval=True)
        async def delete(file: str) -> str:
            """Delete a file."""
            self.runs += 1
            return f"{file} is deleted."

        return delete


PROMPTS = ["count 4", "weather Oslo", "delete notes.txt", "think", "fail"]


@pytest.mark.feature("F62", "F71")
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_a_message_is_restored_whole_wherever_its_runner_died(
    system: LocalSystem, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the log has expired it is written again; a crash in the middle of that must not cost it."""
    crash = crash_at_append(monkeypatch, stored=stored)
    base = await system.gateway()
    await system.runner(retry_delay_s=0.0)
    texts = set()
    for at in range(9):
        session = system.fresh("s")
        crash.next(-1)
        asked = await system.post(base, system.chat(session, "delete notes.txt"))
        await expire_log(system.nats_url, RunId(asked.headers["x-workflow-run-id"]), 0)
        crash.next(at)
        await system.post(base, await system.decision(base, session, approved=True))
        [_, message] = (await system.get(f"{base}/api/agents/{system.agent}/{session}")).json["messages"]
        assert [part["type"] for part in message["parts"]][:2] == [
            "step-start",
            "tool-delete",
        ], f"died at append {at}"
        texts.add(message["parts"][-1]["text"])
    assert texts <= {"notes.txt is deleted.", f"That did not work: {UNKNOWN_OUTCOME}"}


@pytest.mark.feature("F71", "F84")
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
@pytest.mark.parametrize("prompt", PROMPTS)
async def test_the_answer_is_the_same_wherever_its_runner_died(
    system: LocalSystem, prompt: str, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One correct message, every event once, whatever append was the last."""
    crash = crash_at_append(monkeypatch, stored=stored)
    base = await system.gateway()
    shredder = Shredder()
    agent = msgspec.structs.replace(build_demo_agent(), name=system.agent, tools=[weather, shredder.tool()])
    await system.runner([agent], retry_delay_s=0.0)
    expected = (await collect_answer(system, base, prompt)).message
    unknown = 0
    for at in range(crash.count):
        crash.next(at)
        shredder.runs = 0
        message = (await collect_answer(system, base, prompt)).message
        assert shredder.runs <= 1, f"died at append {at}"
        if UNKNOWN_OUTCOME in without_varying_fields(message):
            unknown += 1
        else:
            assert without_varying_fields(message) == without_varying_fields(expected), f"died at append {at}"
    # Only between the word that the tool is started and its result is the outcome unknown; where the batches
    # of one run end elsewhere than those of another, that seam may be met under two numbers.
    assert unknown in ({1, 2} if prompt.startswith("delete") else {0})
