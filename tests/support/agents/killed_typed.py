"""A typed agent for a runner process that a test kills: see `tests/fault/takeover`.

It looks a recipe up, while the user steers it; asks to print, which a person approves; answers with
something that does not fit, then with the recipe. The environment gives its name, the gateway, and the file
to which the printer appends.
"""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp
import msgspec

from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, Usage
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool

WRONG = {"name": "Soup 🍲", "people": "two"}
RECIPE = {"name": "Soup 🍲", "people": 2}


class Meal(msgspec.Struct):
    """A meal."""

    name: str
    people: int


def steering_texts(message: MessageDict) -> list[str]:
    """What the user has said in the middle of an answer, in its order."""
    said = [part for part in message["parts"] if part["type"] == "steering-message"]
    return [inner["text"] for part in said for inner in part["parts"] if inner["type"] == "text"]


class Cook(msgspec.Struct):
    """`Model`."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        match request.step:
            case 0:
                yield ToolInputAvailable("call_look_up", "look_up", {"food": "soup"})
            case 1:
                yield ToolInputAvailable("call_print", "print_it", {"copies": 1})
            case step:
                heard = "for two" in steering_texts(request.answer)
                value = RECIPE if step > 2 and heard else WRONG
                yield TextStart("t")
                text = msgspec.json.encode(value).decode()
                for at in range(0, len(text), 6):
                    yield TextDelta("t", text[at : at + 6])
                yield TextEnd("t")
        yield Done("stop", Usage(1, 1))


def build_agent(name: str, base: str, ledger: Path) -> Agent:
    """The agent. `base`: a gateway, to which the user's steering message is sent while a tool runs."""

    @tool(on_crash="retry")
    async def look_up(ctx: ToolContext[None], food: str) -> str:
        """Look a recipe up, while the user writes. A repeated call sends the same message."""
        message = {"id": "m-steer", "role": "user", "parts": [{"type": "text", "text": "for two"}]}
        url = f"{base}/api/agents/{name}/{ctx.session}"
        async with (
            aiohttp.ClientSession() as http,
            http.post(url, json={"message": message, "whenBusy": "steer"}) as response,
        ):
            assert (await response.json())["steering"]
        return f"{food}: cut, boil"

    @tool(needs_approval=True)
    async def print_it(copies: int) -> str:
        """Print the recipe."""
        with ledger.open("a") as file:
            file.write(f"{copies}\n")
        return "printed"

    return Agent(name=name, model=Cook(), tools=[look_up, print_it], output=Meal, text_interval_s=0)


if "TEST_LEDGER" in os.environ:
    agent = build_agent(os.environ["TEST_AGENT"], os.environ["TEST_BASE"], Path(os.environ["TEST_LEDGER"]))
