"""The agent of `rejoin dev`: the scripted model and three tools, one of which needs approval."""

import asyncio

from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.models.model import Model
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError

SLEEP_MAX_S = 3_600
SUGGESTIONS = ("count 60 every 150 ms", "weather Paris", "delete notes.txt", "think", "sleep 5", "fail")


@tool
async def weather(city: str) -> str:
    """Tell the weather in a city."""
    degrees = sum(city.casefold().encode()) % 30
    return f"It is {degrees} °C in {city}."


@tool(needs_approval=True)
async def delete(file: str) -> str:
    """Delete a file. Only pretends to: this is a demonstration."""
    return f"{file} is deleted."


@tool
async def sleep(seconds: float) -> str:
    """Take a while."""
    if not 0 <= seconds <= SLEEP_MAX_S:
        raise ToolError(f"between 0 and {SLEEP_MAX_S} seconds, please")
    await asyncio.sleep(seconds)
    return f"I slept for {seconds:g} seconds."


def build_demo_agent(model: Model | str | None = None) -> Agent:
    """The demo agent, with the scripted model or with another one."""
    return Agent(
        name="demo",
        model=model or DemoModel(),
        instructions="You are a helpful assistant. Use your tools where they fit.",
        tools=[weather, delete, sleep],
        text_interval_s=0,  # every number is an event, to make resuming visible
        description="Counts, tells the weather, deletes files if you let it.",
        suggestions=SUGGESTIONS,
    )
