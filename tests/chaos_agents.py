"""The agent of the chaos: the demo's model over tools that write down each of their executions.

`REJOIN_CHAOS_CALLS` names the file. A line is one execution, and what a test counts. Two of the tools must
never run twice: they take a while, so that a runner is killed in the middle of them now and then.
"""

import asyncio
import os
from pathlib import Path

from runner.agents import Agent
from runner.demo import weather
from runner.models.scripted import Scripted
from runner.tools import ToolContext, tool

CALLS = "REJOIN_CHAOS_CALLS"
DELETE_S = 0.05


def _count(name: str, context: ToolContext[None]) -> None:
    with Path(os.environ[CALLS]).open("a", encoding="utf-8") as calls:
        calls.write(f"{name} {context.idempotency_key}\n")


@tool(name="weather")
async def counted_weather(context: ToolContext[None], city: str) -> str:
    """Tell the weather in a city."""
    _count("weather", context)
    said: str = await weather.function(city)
    return said


@tool(needs_approval=True)
async def delete(context: ToolContext[None], file: str) -> str:
    """Delete a file. Pretends to."""
    _count("delete", context)
    await asyncio.sleep(DELETE_S)
    return f"{file} is deleted."


@tool(on_crash="report")
async def sleep(context: ToolContext[None], seconds: float) -> str:
    """Take a while."""
    _count("sleep", context)
    await asyncio.sleep(seconds)
    return f"I slept for {seconds:g} seconds."


agent = Agent(name="chaos", model=Scripted(), tools=[counted_weather, delete, sleep])
