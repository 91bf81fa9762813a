"""The agent of the AI SDK flows: the demo model, and a slow `delete` that can be called twice in one step.

`delete A and B` calls it for both. `locate` calls a tool that the client runs. `a recipe, please` transfers
to an agent with a typed answer, whose first one is wrong for `a wrong recipe, please`. `ask aide: TASK`
delegates to another agent, and `aide, please` transfers to it. The text after a decision is slow, so that a
client can be cut in its middle.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_runner.agent.agent import Agent
from rejoin_runner.demo import sleep, weather
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.client_tool import client_tool
from rejoin_runner.tools.tool_decorator import tool

DELETE_S = 0.4
SLOW_S = 2.0
SLOW = "slow.txt"
WORD_S = 0.1
_TWO = re.compile(r"delete (\S+) and (\S+)")
_LOCATE_AND = re.compile(r"locate and delete (\S+)")
_ASK = re.compile(r"ask aide: (.+)")
_PLEASE = "aide, please"
_RECIPE = re.compile(r"a (wrong )?recipe, please")


class Recipe(msgspec.Struct):
    """How to cook something."""

    name: str
    steps: list[str]


@tool(needs_approval=True)
async def delete(file: str) -> str:
    """Delete a file. Pretends to, and takes its time."""
    await asyncio.sleep(SLOW_S if file == SLOW else DELETE_S)
    return f"{file} is deleted."


class Deliberate:
    """`port.Model`."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        texts = [part["text"] for part in request.history[-1]["parts"] if part["type"] == "text"]
        calls = [] if request.step else _calls(texts[0])
        if calls and {call.tool_name for call in calls} <= {tool.name for tool in request.tools}:
            for call in calls:
                yield call
            yield Done("tool-calls")
            return
        async with aclosing(DemoModel().stream(request)) as stream:
            async for chunk in stream:
                if request.step and isinstance(chunk, TextDelta):
                    await asyncio.sleep(WORD_S)
                yield chunk


class Cook:
    """`port.Model`. Writes a recipe, slowly."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        [text] = [part["text"] for part in request.history[-1]["parts"] if part["type"] == "text"]
        is_corrected = b"Soup" in msgspec.json.encode(request.answer)  # with what was wrong with it
        is_wrong = "wrong" in text and not is_corrected
        recipe = {"name": "Soup 🍲"} if is_wrong else Recipe("Soup 🍲", ["Cut.", "Boil.", "Salt.", "Eat."])
        yield TextStart(id="t")
        for piece in re.split(r"(?<=,)", msgspec.json.encode(recipe).decode()):
            yield TextDelta(id="t", delta=piece)
            await asyncio.sleep(WORD_S)
        yield TextEnd(id="t")
        yield Done("stop")


def _calls(text: str) -> list[ToolInputAvailable]:
    """The calls that a text asks for, besides those of the demo's model."""
    asked: list[tuple[str, dict[str, str]]] = []
    if two := _TWO.fullmatch(text):
        asked = [("delete", {"file": file}) for file in two.groups()]
    elif text == "locate":
        asked = [("locate", {})]
    elif beside := _LOCATE_AND.fullmatch(text):
        asked = [("locate", {}), ("delete", {"file": beside[1]}), ("weather", {"city": "Rome"})]
    elif task := _ASK.fullmatch(text):
        asked = [("delegate_to_aide", {"task": task[1]})]
    elif _RECIPE.fullmatch(text):
        asked = [("transfer_to_cook", {})]
    elif text == _PLEASE:
        asked = [("transfer_to_aide", {})]
    return [
        ToolInputAvailable(tool_call_id=f"call_{number}", tool_name=name, input=input)
        for number, (name, input) in enumerate(asked, 1)
    ]


locate = client_tool("locate", "Find out where the user is.", output=str)
aide = Agent(name="aide", model=Deliberate(), tools=[weather, delete, sleep])
cook = Agent(name="cook", model=Cook(), output=Recipe)

agent = Agent(
    name="conformance",
    model=Deliberate(),
    tools=[weather, delete, sleep, locate],
    delegates=[aide],
    handoffs=[aide, cook],
    text_interval_s=0,  # an event for each number, so that a flow knows where it is
)
