"""An agent for a runner process that a test kills around a decision: see `tests/fault/takeover`.

The environment gives its name and the file to which tools and rules append what they do, so that the process
that takes over appends to the same file.
"""

import os
from pathlib import Path
from typing import Any

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import Script
from tests.support.models.agent_teams import Calls, scripted_agent

SHOWN = {"order": "A-17", "cents": 49_900}
EDITED = {"order": "A-17", "cents": 900}


def build_agent(name: str, ledger: Path) -> Agent:
    """The agent: one call that a person changes, one whose rule answers otherwise every time it is asked."""

    def note(line: str) -> None:
        with ledger.open("a") as file:
            file.write(line + "\n")

    def count_asked() -> int:
        return ledger.read_text().count("asked") if ledger.exists() else 0

    async def changes_its_mind(_: dict[str, Any], __: ToolContext[None]) -> bool:
        asked = count_asked()
        note("asked")
        return asked % 2 == 1

    @tool(needs_approval=True, approval_edits=True)
    async def refund(ctx: ToolContext[None], order: str, cents: int) -> str:
        """Refund an order."""
        shown = None if ctx.approval is None else ctx.approval.shown_input
        note(f"refund {order} {cents} {shown == SHOWN}")
        return f"Refunded {cents}."

    @tool(needs_approval=changes_its_mind)
    async def mail(to: str) -> str:
        """Write a mail."""
        note(f"mail {to}")
        return "sent"

    lines: Script = {"go": [[Calls("mail", {"to": "Ann"}), Calls("refund", SHOWN)], ["Done."]]}
    return scripted_agent(name, lines, tools=[refund, mail])


if "TEST_LEDGER" in os.environ:
    agent = build_agent(os.environ["TEST_AGENT"], Path(os.environ["TEST_LEDGER"]))
