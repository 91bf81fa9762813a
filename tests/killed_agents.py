"""An agent for a runner that a test kills: its name and its model come from the environment."""

import asyncio
import os

from runner.agents import Agent
from runner.tools import tool


@tool
async def weather(city: str) -> str:
    """Never comes back."""
    await asyncio.Event().wait()
    return city


agent = Agent(name=os.environ["TEST_AGENT"], model=os.environ["TEST_MODEL"], tools=[weather])
