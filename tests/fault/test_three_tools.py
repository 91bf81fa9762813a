"""Two steps, three tools, one approval: its runner dies at every append and before every acknowledgement.

One tool may be repeated, one must not be, and one needs a person's word. Whatever died: one message, each
tool as its policy says, every viewer every event once.
"""

from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from protocol.adapters.log import JetStreamLog
from protocol.adapters.requests import JetStreamDelivery
from protocol.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from runner import Agent, tool
from runner.acting import UNKNOWN_OUTCOME
from runner.models.port import Done, ModelChunk, ModelRequest
from tests.fault.test_every_append import Died, Mortal, answer, check_events
from tests.rig import Rig

TOOLS = ("look", "stamp", "delete")


class Three:
    """A model that calls all three tools, and then says how it went."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        outcomes = [part["state"] for part in request.answer["parts"] if part["type"].startswith("tool-")]
        if not outcomes:
            for name in TOOLS:
                yield ToolInputAvailable(tool_call_id=f"call_{name}", tool_name=name, input={})
            yield Done("tool-calls")
            return
        yield TextStart(id="t")
        yield TextDelta(id="t", delta=" ".join(outcomes))
        yield TextEnd(id="t")
        yield Done("stop")


def agent_of(rig: Rig, runs: Counter[str]) -> Agent:
    @tool
    async def look() -> str:
        """Look: may be repeated."""
        runs["look"] += 1
        return "seen"

    @tool(on_crash="report")
    async def stamp() -> str:
        """Stamp: must not be repeated."""
        runs["stamp"] += 1
        return "stamped"

    @tool(needs_approval=True)
    async def delete() -> str:
        """Delete: needs a person's word."""
        runs["delete"] += 1
        return "deleted"

    return Agent(name=rig.agent, model=Three(), tools=[look, stamp, delete])


def check_tools(message: dict[str, Any], runs: Counter[str], where: str) -> None:
    """Each tool has its result, or was started once and its outcome is unknown."""
    parts = {part["type"].removeprefix("tool-"): part for part in message["parts"]}
    assert parts["look"]["output"] == "seen", where
    assert runs["look"] >= 1, where
    for name, output in (("stamp", "stamped"), ("delete", "deleted")):
        assert runs[name] <= 1, where
        if "output" in parts[name]:
            assert (parts[name]["output"], runs[name]) == (output, 1), where
        else:
            assert parts[name]["errorText"] == UNKNOWN_OUTCOME, where
    assert message["parts"][-2]["text"].count("output-") == len(TOOLS), where


@pytest.mark.parametrize("stored", [False, True], ids=["before it is stored", "after it is stored"])
async def test_f71_f84_f88_its_runner_died_at_an_append(
    rig: Rig, *, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F71, F84, F88."""
    logs: list[Mortal] = []
    runs: Counter[str] = Counter()

    def mortal(*brokers: Any) -> Mortal:
        logs.append(Mortal(JetStreamLog(*brokers)))
        return logs[-1]

    monkeypatch.setattr("runner.app.JetStreamLog", mortal)
    base = await rig.gateway()
    await rig.runner([agent_of(rig, runs)], retry_delay_s=0.0)
    [log] = logs
    await answer(rig, base, "go")
    appends, log.stored = log.appends, stored
    for at in range(appends):
        log.appends, log.at = 0, at
        runs.clear()
        message, responses = await answer(rig, base, "go")
        check_events(message, responses)
        check_tools(message, runs, f"died at append {at}")


async def test_f71_f88_its_runner_died_before_an_acknowledgement(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is acknowledged is done; what is done and not acknowledged is not done again."""
    acknowledge, acks, dies_at = JetStreamDelivery.ack, 0, -1

    async def ack(self: JetStreamDelivery) -> None:
        nonlocal acks
        acks += 1
        if acks - 1 == dies_at:
            raise Died
        await acknowledge(self)

    monkeypatch.setattr(JetStreamDelivery, "ack", ack)
    runs: Counter[str] = Counter()
    base = await rig.gateway()
    await rig.runner([agent_of(rig, runs)], retry_delay_s=0.0)
    for at in range(2):  # the turn that asked, and the turn that was approved
        acks, dies_at = 0, at
        runs.clear()
        message, responses = await answer(rig, base, "go")
        check_events(message, responses)
        check_tools(message, runs, f"died before acknowledgement {at}")
        assert runs == dict.fromkeys(TOOLS, 1)
