"""Two steps and three tools: one tool may be repeated, one must not be repeated, one needs an approval."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.agent.agent import Agent
from rejoin_runner.run.tool_calls import UNKNOWN_OUTCOME
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.scripted_models import CallingModel

TOOLS = ("look", "stamp", "delete")

type Note = Callable[[str, str], None]
"""Is told of a run of a tool: its name, and the idempotency key of the call."""


def build_tools(note: Note = lambda *_: None) -> list[Tool]:
    """In the order of their names in `TOOLS`."""

    @tool
    async def look(ctx: ToolContext[None]) -> str:
        """Look: may be repeated."""
        note("look", ctx.idempotency_key)
        return "seen"

    @tool(on_crash="report")
    async def stamp(ctx: ToolContext[None]) -> str:
        """Stamp: must not be repeated."""
        note("stamp", ctx.idempotency_key)
        return "stamped"

    @tool(needs_approval=True)
    async def delete(ctx: ToolContext[None]) -> str:
        """Delete: needs a person's word."""
        note("delete", ctx.idempotency_key)
        return "deleted"

    return [look, stamp, delete]


def build_agent(name: str, note: Note) -> Agent:
    """The agent that has them, and calls all of them at once."""
    return Agent(name=name, model=CallingModel(look={}, stamp={}, delete={}), tools=build_tools(note))


def count_into(runs: Counter[str]) -> Note:
    """Counts the runs of each tool."""
    return lambda name, _: runs.update([name])


def write_to(ledger: Path) -> Note:
    """Writes a line for each run."""

    def note(name: str, key: str) -> None:
        with ledger.open("a") as file:
            file.write(f"{name} {key}\n")

    return note


def runs_in(ledger: Path) -> tuple[Counter[str], set[str]]:
    """How often each tool ran, and with which idempotency keys."""
    lines = ledger.read_text().split("\n")[:-1] if ledger.exists() else []
    return Counter(line.split()[0] for line in lines), set(lines)


def check(message: MessageDict, runs: Counter[str], where: str) -> None:
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
    assert message["parts"][-1]["text"].count("output-") == len(TOOLS), where
