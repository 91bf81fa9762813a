"""The agents of the chaos test: the demo model, with tools that record each execution.

Two agents transfer the conversation to each other. One of them delegates to an agent that needs approvals and
to custom loops, one of which must not start twice. A tool draws and reports its progress.

`REJOIN_CHAOS_CALLS` names the file of executions, one a line. Two tools must never run twice; they are slow,
so that a runner is sometimes killed while they run.
"""

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from rejoin_protocol import file_formats
from rejoin_protocol.events.chunks import TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_protocol.events.fold import MessageDict
from rejoin_runner.agent.agent import Agent
from rejoin_runner.agent.agent_decorator import agent as own_loop
from rejoin_runner.agent.custom_loop import RunInput
from rejoin_runner.agent.status_settings import StatusUpdates, Summary
from rejoin_runner.demo import weather
from rejoin_runner.models.demo_model import DemoModel
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest, Usage
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool

CALLS = "REJOIN_CHAOS_CALLS"
DELETE_S = 0.05


def _count(name: str, context: ToolContext[None] | RunInput[None]) -> None:
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


@tool
async def draw(context: ToolContext[None], lines: int) -> AsyncIterator[str]:
    """Draw lines, and show each of them."""
    _count("draw", context)
    await context.emit_artifact(type="drawing", name="lines", data={"lines": lines}, preview=["lines"])
    for line in range(1, lines + 1):
        await context.emit_status(f"line {line}")
        yield f"line {line}"
        await asyncio.sleep(0.02)
    yield f"I drew {lines} lines."


@tool
async def poison(context: ToolContext[None], seconds: float) -> str:
    """End the process."""
    _count("poison", context)
    await asyncio.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
    return "alive"


@tool
async def block(context: ToolContext[None], seconds: float) -> str:
    """Block the event loop."""
    _count("block", context)
    time.sleep(seconds)  # noqa: ASYNC251 - this is what it is about
    return "back"


@own_loop(name="walker", text_interval_s=0.05)
async def walker(run: RunInput[None]) -> AsyncIterator[str]:
    """A custom loop that starts again after a crash."""
    for step in range(1, int(run.text) + 1):
        yield f"{step} "
        await asyncio.sleep(0.02)
    yield "steps."


@own_loop(name="once", on_crash="fail")
async def once(run: RunInput[None]) -> AsyncIterator[str]:
    """A custom loop that must not start twice."""
    _count("once", run)
    for step in range(1, int(run.text) + 1):
        yield f"{step} "
        await asyncio.sleep(0.02)
    yield "once."


class Player:
    """A `Model`: the demo model, which also transfers, delegates, draws and reads files."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        words = _last(request).split()
        called = any("toolCallId" in part for part in request.answer.get("parts", ()))
        transfer = next((one.name for one in request.tools if one.name.startswith("transfer_to_")), None)
        match [] if called else words:
            case ["refer"] if transfer is not None:
                yield _call(transfer)
            case ["ask", file]:
                yield _call("delegate_to_helper", task=f"delete {file}")
            case [("walk" | "once") as who, steps]:
                yield _call(f"delegate_to_{'walker' if who == 'walk' else who}", task=steps)
            case [("poison" | "block") as name, seconds]:
                yield _call(name, seconds=float(seconds))
            case ["draw", lines]:
                yield _call("draw", lines=int(lines))
            case ["look"]:
                yield TextStart(id="t")
                yield TextDelta(id="t", delta=f"I see {', '.join(seen(request.history[-1]))}.")
                yield TextEnd(id="t")
            case _:
                async for chunk in DemoModel().stream(request):
                    yield chunk
                return
        yield Done("stop", Usage(1, 1))


def _last(request: ModelRequest) -> str:
    return "".join(part["text"] for part in request.history[-1]["parts"] if part["type"] == "text")


def _call(name: str, **arguments: str | float) -> ToolInputAvailable:
    return ToolInputAvailable(tool_call_id="call_1", tool_name=name, input=arguments)


def seen(message: MessageDict) -> list[str]:
    """The digest of each file of a message that a model receives."""
    urls = [part["url"] for part in message["parts"] if part["type"] == "file"]
    return [hashlib.sha256(file_formats.parse_data_url(url)[1]).hexdigest()[:16] for url in urls]


async def _write(text: str) -> Summary:
    return Summary(f"After {len(text)} characters", None)


TOOLS = [counted_weather, delete, sleep, draw, poison, block]
helper = Agent(name="helper", model=Player(), tools=[delete], description="Deletes files.")
desk = Agent(name="desk", model=Player(), tools=TOOLS, handoffs=["chaos"], delegates=[helper, walker, once])
agent = Agent(
    name="chaos",
    model=Player(),
    tools=TOOLS,
    handoffs=[desk],
    delegates=[helper, walker, once],
    status_updates=StatusUpdates(write=_write, every_s=0.5),
)
