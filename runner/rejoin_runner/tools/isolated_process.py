"""The process of one isolated call: `python -m rejoin_runner.tools.isolated_process FD PARENT`.

Sets its limits, imports the tool's module, calls the function, and sends what comes of it. It dies with its
parent, and so does all that it has started: on Linux by a keeper, elsewhere by its process group.
"""

import asyncio
import os
import pickle
import resource
import socket
import sys
import time
from collections import Counter
from importlib import import_module
from typing import Any

import msgspec

from rejoin_adapters.process.exception_report import report_exception
from rejoin_adapters.process.overload import die_first
from rejoin_protocol.events import chunks
from rejoin_protocol.events.chunks import Chunk
from rejoin_protocol.ids import CallId, RunId, SessionId
from rejoin_protocol.json_input import well_formed
from rejoin_protocol.log.record import Audience
from rejoin_runner.tools import process_family
from rejoin_runner.tools.isolated_calls import (
    CallStart,
    Emission,
    EmissionAnswer,
    Preliminary,
    Raised,
    Returned,
    StoredArtifact,
    encode_frame,
)
from rejoin_runner.tools.output_port import NewArtifact
from rejoin_runner.tools.tool import Tool
from rejoin_runner.tools.tool_context import ToolContext
from rejoin_runner.tools.tool_decorator import tool as make_tool
from rejoin_runner.tools.tool_error import ToolError


class RemoteOutput:
    """`CallOutput` in the process: sends what is emitted, and waits for the runner's answer."""

    def __init__(self, runner: socket.socket, start: CallStart) -> None:
        self._runner = runner
        self._order = asyncio.Lock()
        self._counts: Counter[str] = Counter()
        self.agent = start.agent
        self.run = RunId(start.run)
        self.status_audience = start.status_audience

    async def emit(self, chunk: Chunk, audience: Audience = Audience.ALL) -> None:
        """See `CallOutput`."""
        await self._ask(Emission(chunks.encode_mended(chunk)[1], audience))

    async def show_preliminary(self, output: Any) -> None:
        """See `CallOutput`."""
        await self._ask(Preliminary(msgspec.json.encode(output)))

    async def store_artifact(self, artifact: NewArtifact) -> None:
        """See `CallOutput`."""
        await self._ask(StoredArtifact(artifact))

    def next_number(self, kind: str) -> int:
        """See `CallOutput`. The process is the only one that counts: the call is its own."""
        number = self._counts[kind]
        self._counts[kind] += 1
        return number

    def now_ms(self) -> int:
        """See `CallOutput`."""
        return int(time.time() * 1_000)

    async def _ask(self, message: msgspec.Struct) -> None:
        async with self._order:  # the answer is the next frame
            answer = await asyncio.to_thread(self._exchange, message)
        if answer.refusal is not None:
            raise RuntimeError(answer.refusal)

    def _exchange(self, message: msgspec.Struct) -> EmissionAnswer:
        self._runner.sendall(encode_frame(message))
        return msgspec.msgpack.decode(receive_frame(self._runner), type=EmissionAnswer)


def receive_frame(runner: socket.socket) -> bytes:
    """The next frame. Exits if the runner is gone."""
    return _receive(runner, int.from_bytes(_receive(runner, 4)))


def _receive(runner: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = runner.recv(size - len(received))
        if not part:
            sys.exit("the runner is gone")
        received += part
    return received


def forget_settings() -> None:
    """Remove Rejoin's own settings, which hold credentials, from the environment."""
    for name in [name for name in os.environ if name.startswith("REJOIN_")]:
        del os.environ[name]


def set_limits(start: CallStart) -> None:
    """Limit this process, before any code of the application runs."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (start.limits.cpu_s_max, start.limits.cpu_s_max + 1))
    resource.setrlimit(resource.RLIMIT_AS, (start.limits.memory_bytes_max,) * 2)


def find_tool(start: CallStart) -> Tool:
    """The tool, to be called here. A decorated function has its tool's name in the module, or another one."""
    found: Any = import_module(start.module)
    for name in start.function.split("."):
        found = getattr(found, name)
    made = found if isinstance(found, Tool) else make_tool(name=start.tool)(found)
    return msgspec.structs.replace(made, isolation=None, timeout_s=None)


async def call(start: CallStart, runner: socket.socket) -> bytes:
    """Import and call the tool; returns its result as JSON."""
    tool = find_tool(start)
    context: ToolContext[Any] = ToolContext(
        RunId(start.run),
        SessionId(start.session),
        CallId(start.call),
        pickle.loads(start.context),  # noqa: S301 - our parent has pickled it
        msgspec.json.decode(start.user_data),
        start.approval,
        output=RemoteOutput(runner, start),
    )
    return msgspec.json.encode(await tool.call(msgspec.json.decode(start.input), context))


def main(fd: int, parent: int) -> None:
    """Make the call and send what comes of it."""
    if sys.platform == "linux":
        process_family.divide(parent, fd)
        die_first()
    with socket.socket(fileno=fd) as runner:
        start = msgspec.msgpack.decode(receive_frame(runner), type=CallStart)
        sys.path[:] = start.path
        forget_settings()
        set_limits(start)
        message: msgspec.Struct
        try:
            message = Returned(asyncio.run(call(start, runner)))
        except BaseException as fault:  # noqa: BLE001 - the runner's model is told
            report = report_exception(fault)
            text = well_formed(str(fault)) if isinstance(fault, ToolError) else None
            frames = [str(frame) for frame in report["frames"]]  # type: ignore[attr-defined]
            message = Raised(type(fault).__name__, text, frames)
        runner.sendall(encode_frame(message))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
