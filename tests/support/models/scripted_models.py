"""Models whose output a test controls, and tools that record their calls."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from rejoin_protocol import file_formats
from rejoin_protocol.events.chunks import File, TextDelta, TextEnd, TextStart, ToolInputAvailable
from rejoin_runner.models.model import Done, ModelChunk, ModelRequest
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_decorator import tool


class BurstModel(msgspec.Struct):
    """Emits `pieces` deltas of `size` bytes: `burst` at once, then nothing for `pause_s` seconds."""

    pieces: int
    size: int
    burst: int = 1
    pause_s: float = 0.0

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        del request
        yield TextStart(id="t")
        for number in range(self.pieces):
            if number and number % self.burst == 0:
                await asyncio.sleep(self.pause_s)
            yield TextDelta(id="t", delta=f" {number}".ljust(self.size, "."))
        yield TextEnd(id="t")
        yield Done("stop")


class GatedModel(msgspec.Struct):
    """Emits one word each time `gate` is released. `asked` holds its requests."""

    gate: asyncio.Semaphore
    words: int
    asked: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        self.asked.append(request)
        yield TextStart(id="t")
        for number in range(self.words):
            await self.gate.acquire()
            yield TextDelta(id="t", delta=f" {number}")
        yield TextEnd(id="t")
        yield Done("stop")


class PictureModel(msgspec.Struct):
    """Makes a picture between two texts, which both say `said`. `png`: its bytes."""

    png: bytes
    said: str = "Look."

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        del request
        for id in ("before", "behind"):
            yield TextStart(id=id)
            yield TextDelta(id=id, delta=self.said)
            yield TextEnd(id=id)
            if id == "before":
                yield File(file_formats.to_data_url(file_formats.PNG, self.png), file_formats.PNG)
        yield Done("stop")


class RepeatedDeleteModel(msgspec.Struct):
    """Calls `delete` in each of its first `times` steps, and ends in the next step."""

    times: int

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        if request.step == self.times:
            for chunk in _say("Done."):
                yield chunk
            yield Done("stop")
            return
        id = f"call_{request.step}"
        yield ToolInputAvailable(tool_call_id=id, tool_name="delete", input={"file": id})
        yield Done("tool-calls")


class SingleCallModel(msgspec.Struct):
    """Calls one tool in its first step and ends in the second."""

    tool: str
    arguments: dict[str, Any]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        if request.step:
            for chunk in _say("Done."):
                yield chunk
            yield Done("stop")
            return
        yield ToolInputAvailable(tool_call_id="call_0", tool_name=self.tool, input=self.arguments)
        yield Done("tool-calls")


class CallingModel:
    """A model that makes these calls at once, and then emits the outcome of each."""

    def __init__(self, **calls: dict[str, Any]) -> None:
        self.calls = calls

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk | Done]:
        """See `port.Model`."""
        if not request.step:
            for name, input in self.calls.items():
                yield ToolInputAvailable(tool_call_id=f"call_{name}", tool_name=name, input=input)
            yield Done("tool-calls")
            return
        ends = [part["state"] for part in request.answer["parts"] if part["type"].startswith("tool-")]
        for chunk in _say(" ".join(ends)):
            yield chunk
        yield Done("stop")


class ShellTools:
    """Tools that write down what they were run with."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def tool(self, name: str, **options: Any) -> Tool:
        """One of them."""

        @tool(name=name, **options)
        async def run(command: str) -> str:
            """Run a command."""
            self.ran.append(command)
            return f"{command}: done"

        return run


def _say(text: str) -> tuple[ModelChunk, ...]:
    return TextStart(id="t"), TextDelta(id="t", delta=text), TextEnd(id="t")
