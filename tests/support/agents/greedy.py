"""An agent for a runner process. Its tool blocks the event loop.

The environment gives its name, and the file that shows that the tool was called.
"""

import os
import time
from pathlib import Path

from rejoin_runner.agent.agent import Agent
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.scripted_models import SingleCallModel


def begun() -> None:
    Path(os.environ["TEST_BEGUN"]).touch()


@tool
async def greedy() -> str:
    """Block without `await`."""
    begun()
    while True:
        time.sleep(60)  # noqa: ASYNC251 - this is what it is about


agent = Agent(name=os.environ["TEST_AGENT"], model=SingleCallModel("greedy", {}), tools=[greedy])
