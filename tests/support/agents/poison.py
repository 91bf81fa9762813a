"""An agent whose tools end or block their process or raise what they should not, and one that takes its time.

The first word of a message names the tool; the second is its argument. `TEST_CALLS` names the file of
executions.
"""

import asyncio
import ctypes
import os
import signal
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_runner.agent.agent import Agent
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool
from tests.support.agents.isolated import SLEEP

CALLS = "TEST_CALLS"


def _count(context: ToolContext[None], word: str) -> None:
    with Path(os.environ[CALLS]).open("a", encoding="utf-8") as calls:
        calls.write(f"{word} {context.run}\n")


@tool
async def die(context: ToolContext[None], way: str) -> str:
    """End the process."""
    _count(context, f"die {way}")
    await asyncio.sleep(0.2)  # the other runs are under way
    match way:
        case "exit":
            os._exit(3)
        case "fault":
            ctypes.string_at(0)
        case _:
            os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@tool
async def block(context: ToolContext[None], seconds: float) -> str:
    """Block the event loop."""
    _count(context, "block")
    time.sleep(seconds)  # noqa: ASYNC251 - this is what it is about
    return "back"


@tool
async def leave(context: ToolContext[None], way: str) -> str:
    """Raise what is no `Exception`."""
    _count(context, f"leave {way}")
    raise SystemExit(3) if way == "SystemExit" else BaseException(way)


@tool
async def shout(context: ToolContext[None], text: str) -> str:
    """Raise an exception with the user's text in it."""
    _count(context, "shout")
    raise RuntimeError(text)


@tool
async def rest(context: ToolContext[None], seconds: float) -> str:
    """Take a while."""
    _count(context, "rest")
    await asyncio.sleep(seconds)
    return "rested"


@tool(isolate=True)
async def rest_apart(context: ToolContext[None], seconds: float) -> str:
    """Take a while, in a process of its own that starts another one in a session of its own."""
    child = await asyncio.create_subprocess_exec(*SLEEP, start_new_session=True)
    _count(context, f"rest_apart {os.getpid()} {child.pid}")
    await asyncio.sleep(seconds)
    return "rested"


ARGUMENTS: Mapping[str, tuple[type[str | float], str]] = {
    "die": (str, "way"),
    "leave": (str, "way"),
    "shout": (str, "text"),
    "block": (float, "seconds"),
    "rest": (float, "seconds"),
    "rest_apart": (float, "seconds"),
}
"""The argument of each tool."""


class WordModel:
    """Calls the tool that the message names, then says what came of it. `count N` counts."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `Model`."""
        parts = request.history[-1]["parts"]
        words = "".join(part["text"] for part in parts if part["type"] == "text").split()
        results = [part for part in request.answer.get("parts", ()) if "toolCallId" in part]
        match words:
            case [name, value] if not results and name in ARGUMENTS:
                kind, argument = ARGUMENTS[name]
                yield ToolInputAvailable(tool_call_id="call_1", tool_name=name, input={argument: kind(value)})
                yield Done("tool-calls")
                return
            case ["count", last]:
                said = [f"{number} " for number in range(1, int(last) + 1)]
            case _:
                said = [str(results[-1].get("output") if results else "nothing")]
        yield TextStart(id="t")
        for word in said:
            yield TextDelta(id="t", delta=word)
            await asyncio.sleep(0.05)
        yield TextEnd(id="t")
        yield Done("stop")


TOOLS = [die, leave, shout, block, rest, rest_apart]
agent = Agent(name="poison", model=WordModel(), tools=TOOLS, text_interval_s=0)
