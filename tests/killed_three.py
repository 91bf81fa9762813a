"""Two steps and three tools for a runner process that a test kills; what the tools did stands in a file.

One tool may be repeated, one must not be, one needs a person's word. The agent's name and the file come from
the environment, so that the process that takes over writes the same file.
"""

import os
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

from protocol.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from runner import Agent, ToolContext, tool
from runner.models.port import Done, ModelChunk, ModelRequest

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
        for word in outcomes:
            yield TextDelta(id="t", delta=f"{word} ")
        yield TextEnd(id="t")
        yield Done("stop")


def agent_of(name: str, ledger: Path) -> Agent:
    """The agent, whose tools write down each of their runs."""

    def note(ctx: ToolContext[None], what: str) -> None:
        with ledger.open("a") as file:
            file.write(f"{what} {ctx.idempotency_key}\n")

    @tool
    async def look(ctx: ToolContext[None]) -> str:
        """Look: may be repeated."""
        note(ctx, "look")
        return "seen"

    @tool(on_crash="report")
    async def stamp(ctx: ToolContext[None]) -> str:
        """Stamp: must not be repeated."""
        note(ctx, "stamp")
        return "stamped"

    @tool(needs_approval=True)
    async def delete(ctx: ToolContext[None]) -> str:
        """Delete: needs a person's word."""
        note(ctx, "delete")
        return "deleted"

    return Agent(name=name, model=Three(), tools=[look, stamp, delete], text_interval_s=0)


def runs_in(ledger: Path) -> tuple[Counter[str], set[str]]:
    """How often each tool ran, and with which idempotency keys."""
    lines = ledger.read_text().split("\n")[:-1] if ledger.exists() else []
    return Counter(line.split()[0] for line in lines), set(lines)


if "TEST_AGENT" in os.environ:
    agent = agent_of(os.environ["TEST_AGENT"], Path(os.environ["TEST_LEDGER"]))
