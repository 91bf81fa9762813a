"""An agent for a runner process that a test kills around the output of a client's tool: see
`tests/fault/takeover`.

The environment gives its name, the file to which tools append what they do, so that the process that takes
over appends to the same file, and whether the request brings the client's tool.
"""

import os
from pathlib import Path

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_decorator import tool
from tests.support.clients.api_families import Script
from tests.support.models.agent_teams import Calls, scripted_agent

locate = client_tool("locate", "Find out where the user is.", output=str)


def build_agent(name: str, ledger: Path, *, is_brought: bool) -> Agent:
    """The agent. Its first step calls three tools: its own, the client's, and one that a person approves.
    `is_brought`: it does not declare the client's tool, the request brings it.
    """

    def note(line: str) -> None:
        with ledger.open("a") as file:
            file.write(line + "\n")

    @tool
    async def charge(cents: int) -> str:
        """Charge the card."""
        note(f"charge {cents}")
        return "charged"

    @tool(needs_approval=True)
    async def mail(to: str) -> str:
        """Write a mail."""
        note(f"mail {to}")
        return "sent"

    calls = [Calls("charge", {"cents": 900}), Calls("locate"), Calls("mail", {"to": "Ann"})]
    lines: Script = {"go": [calls, ["Done."]]}
    if is_brought:
        return scripted_agent(name, lines, tools=[charge, mail], client_tools="request")
    return scripted_agent(name, lines, tools=[charge, locate, mail])


if "TEST_LEDGER" in os.environ:
    agent = build_agent(
        os.environ["TEST_AGENT"],
        Path(os.environ["TEST_LEDGER"]),
        is_brought=os.environ["TEST_BROUGHT"] == "yes",
    )
