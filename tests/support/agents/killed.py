"""An agent for a runner that a test kills. The environment gives its name and its model."""

import asyncio
import os

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool


@tool
async def weather(city: str) -> str:
    """Never returns."""
    await asyncio.Event().wait()
    return city


agent = Agent(name=os.environ["TEST_AGENT"], model=os.environ["TEST_MODEL"], tools=[weather])
