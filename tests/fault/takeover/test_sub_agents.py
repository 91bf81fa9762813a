"""A transfer, consecutive and nested delegations, an approval at the bottom: the runner crashes at every
append and before every acknowledgement.

The stack of agents is stored in the log only, so the next runner restores it from there: one message, each
tool by its policy, every event once for every client.
"""

from collections import Counter

import pytest

from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.agent.agent import Agent
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from tests.support.clients.full_answer import collect_answer, without_varying_fields
from tests.support.faults.crashing_runners import crash_at_append, crash_before_acknowledgement
from tests.support.models.agent_teams import Breaks, Calls, Line, Lines, Thinks, scripted_agent, texts
from tests.support.models.three_tools import build_tools, count_into
from tests.support.system.local_system import LocalSystem

pytestmark = pytest.mark.timeout(300)  # some seventy deaths each

ANSWER = (
    "All: billing has the conversation now. A: stamped Dug: deleted seen. seen B: stamped. "
    "It failed: The provider is on fire."
)
STAMPS = 2


def crew(system: LocalSystem, runs: Counter[str]) -> Agent:
    """Support hands over to billing; billing delegates to research three times; research delegates to dig
    once.
    """
    look, stamp, delete = build_tools(count_into(runs))
    dig = scripted_agent(
        "dig",
        {"deep": [[Thinks("Where?"), Calls("delete"), Calls("look")], ["Dug: {}."]]},
        tools=[look, delete],
    )
    research = scripted_agent(
        "research",
        {
            "a": [[Calls("stamp"), Calls("delegate_to_dig", {"task": "deep"})], ["A: {}"]],
            "b": [[Calls("stamp")], ["B: {}."]],
            "c": [["I try.", Calls("look"), Breaks()]],
        },
        tools=[stamp],
        delegates=[dig],
    )
    asks: list[Line] = [Calls("delegate_to_research", {"task": task}) for task in "abc"]
    billing = scripted_agent(
        "billing",
        {"go": [[], [asks[0], Calls("look"), *asks[1:]], ["All: {}"]]},
        tools=[look],
        delegates=[research],
    )
    lines: Lines = {"go": [["One moment.", Calls("transfer_to_billing")]]}
    return scripted_agent(system.agent, lines, handoffs=[billing])


def check(message: MessageDict, runs: Counter[str], expected: MessageDict, where: str) -> int:
    """The same message, but for tools that must not be repeated and may have been. Returns how many."""
    calls = [part for part in message["parts"] if "toolCallId" in part]
    unknown = [part["type"] for part in calls if part.get("errorText") == UNKNOWN_OUTCOME]
    assert all(part["state"].startswith("output-") for part in calls), where
    assert runs["delete"] <= 1, where
    assert runs["stamp"] <= STAMPS, where
    stamped = sum(part.get("output") == "stamped" for part in calls)
    assert stamped + unknown.count("tool-stamp") == STAMPS, where
    assert stamped <= runs["stamp"], where
    if not unknown:
        assert without_varying_fields(message) == without_varying_fields(expected), where
    return len(unknown)


@pytest.mark.slow
@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_its_runner_died_at_an_append(
    system: LocalSystem, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message is the same for every append, except for the outcome of an interrupted tool."""
    crash = crash_at_append(monkeypatch, stored=stored)
    runs: Counter[str] = Counter()
    base = await system.gateway()
    await system.runner([crew(system, runs)], retry_delay_s=0.0)
    expected = (await collect_answer(system, base, "go")).message
    assert texts(expected, "text") == ["One moment.", ANSWER]
    unknown = 0
    for at in range(crash.count):
        crash.next(at)
        runs.clear()
        answer = await collect_answer(system, base, "go")
        unknown += check(answer.message, runs, expected, f"died at append {at}")
    assert unknown, "no crash fell between the word that a tool is started and its result"


async def test_its_runner_died_before_an_acknowledgement(
    system: LocalSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Completed work is not repeated, in any frame."""
    crash = crash_before_acknowledgement(monkeypatch)
    runs: Counter[str] = Counter()
    base = await system.gateway()
    await system.runner([crew(system, runs)], retry_delay_s=0.0)
    expected = (await collect_answer(system, base, "go")).message
    for at in range(2):  # the turn that asked, and the turn that was approved
        crash.next(at)
        runs.clear()
        answer = await collect_answer(system, base, "go")
        assert check(answer.message, runs, expected, f"died before acknowledgement {at}") == 0
        assert runs == {"look": 2, "stamp": STAMPS, "delete": 1}
