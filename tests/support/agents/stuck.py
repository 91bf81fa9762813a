"""An agent for a runner process, with tools that never return.

The environment gives its name, the tool that it calls, and the file that shows the call.
"""

import asyncio
import os
import time
from pathlib import Path

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.scripted_models import SingleCallModel


def begun() -> None:
    Path(os.environ["TEST_BEGUN"]).touch()


@tool(on_crash="report")
def stuck() -> str:
    """A blocking call. Its thread cannot be ended."""
    begun()
    while True:
        time.sleep(60)


@tool(on_crash="report")
async def stubborn() -> str:
    """Ignores its cancellation."""
    begun()
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue


agent = Agent(
    name=os.environ["TEST_AGENT"], model=SingleCallModel(os.environ["TEST_TOOL"], {}), tools=[stuck, stubborn]
)
