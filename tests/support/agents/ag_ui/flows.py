"""The agent of the AG-UI clients' flows. As a process's agent it reads its name from `TEST_AGENT`."""

import os
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool_decorator import tool
from tests.support.models.agent_teams import Breaks, Calls, Lines, ScriptedPart, Thinks

COUNT = "count 100 every 5 ms"
NUMBERS = " ".join(str(number) for number in range(1, 101))
LINES: Lines = {
    "hello": [[Thinks("A greeting."), "Hello there."]],
    "weather": [["Let me see.", Calls("weather", {"city": "Oslo"})], ["{}"]],
    "book": [[Calls("book", {"city": "Oslo"})], ["{}"]],
    "locate": [[Calls("locate")], ["You are in {}."]],
    "both": [[Calls("locate"), Calls("book", {"city": "Oslo"})], ["{}"]],
    "fail": [["This is", Breaks()]],
}


@tool
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"It rains in {city}."


@tool(needs_approval=True, approval_edits=True)
async def book(city: str) -> str:
    """Book a trip."""
    return f"Booked {city}."


class FlowModel:
    """Plays its part, counts as the demo does, and says to `context` what the application has told it."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        *earlier, last = request.history
        asked, *context = [part["text"] for part in last["parts"] if part["type"] == "text"]
        model = DemoModel() if asked == COUNT else ScriptedPart({"context": [context], **LINES}, [])
        said = {**last, "parts": [{"type": "text", "text": asked}]}
        plain = msgspec.structs.replace(request, history=[*earlier, said])
        async with aclosing(model.stream(plain)) as stream:
            async for chunk in stream:
                yield chunk


def build_agent(name: str) -> Agent:
    """The agent under a name."""
    return Agent(
        name=name, model=FlowModel(), tools=[weather, book], client_tools="request", text_interval_s=0
    )


agent = build_agent(os.environ.get("TEST_AGENT", "ag_ui"))
