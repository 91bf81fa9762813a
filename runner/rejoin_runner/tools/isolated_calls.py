"""Calls of tools in processes of their own: one for each call, with limits, killed when the call ends.

The process imports the tool's module and calls the function. What crosses the border is JSON, except for the
application's context, which is pickled for the process. Nothing that comes back is unpickled. What the tool
emits comes back as requests, in order, and each is answered when its event is in the run's output.
"""

import asyncio
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from rejoin_protocol.errors import Invalid
from rejoin_protocol.events import chunks
from rejoin_protocol.log.record import Audience
from rejoin_runner.tools.output_port import CallOutput, NewArtifact
from rejoin_runner.tools.tool_context import CallApproval, ToolContext
from rejoin_runner.tools.tool_error import ToolError

PROCESSES_MAX = 8
END_S_MAX = 2.0
"""Seconds in which a process ends what it has started."""
FRAME_BYTES_MAX = 64 * 1024 * 1024
PLACES = threading.BoundedSemaphore(PROCESSES_MAX)
"""The processes of all event loops of this runner together."""

log = structlog.get_logger("rejoin.isolated_calls")


class Isolation(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a tool's process.

    Attributes:
        memory_bytes_max: Address space, the interpreter and the imported modules included. Default: 1 GiB.
        cpu_s_max: Seconds of CPU time. Default: 60.
    """

    memory_bytes_max: int = 1024**3
    cpu_s_max: int = 60


class CallStart(msgspec.Struct, frozen=True):
    """What the process needs for its call."""

    path: list[str]
    module: str
    function: str
    tool: str
    input: bytes
    """The arguments as JSON."""
    context: bytes
    """The pickled context of the application."""
    run: str
    session: str
    call: str
    agent: str
    user_data: bytes
    limits: Isolation
    approval: CallApproval | None = None
    status_audience: Audience = Audience.OPERATIONS


class Emission(msgspec.Struct, frozen=True, tag=True):
    """The tool emits a chunk, given as JSON."""

    chunk: bytes
    audience: Audience


class Preliminary(msgspec.Struct, frozen=True, tag=True):
    """The tool shows a preliminary result, given as JSON."""

    output: bytes


class StoredArtifact(msgspec.Struct, frozen=True, tag=True):
    """The tool stores an artifact."""

    artifact: NewArtifact


class Returned(msgspec.Struct, frozen=True, tag=True):
    """The result, as JSON."""

    result: bytes


class Raised(msgspec.Struct, frozen=True, tag=True):
    """What the function raised. `text` is set for a `ToolError` only: other texts may hold secrets."""

    error: str
    text: str | None
    frames: list[str]


type FromProcess = Emission | Preliminary | StoredArtifact | Returned | Raised


class EmissionAnswer(msgspec.Struct, frozen=True):
    """The runner's answer to an emission: None, or why it was refused."""

    refusal: str | None = None


def read_isolation(tool_name: str, function: Any, isolate: bool | Isolation) -> Isolation | None:
    """The limits of a tool's process; None if it has none. Raises `Invalid` unless another process can import
    the function.
    """
    if isolate is False:
        return None
    if "<" in function.__qualname__ or function.__module__ == "__main__":
        raise Invalid(
            f"tool {tool_name}: an isolated tool is a function of a module, because its process imports it"
        )
    return Isolation() if isolate is True else isolate


async def call_isolated(
    name: str, function: Any, limits: Isolation, input: Any, context: ToolContext[Any]
) -> Any:
    """Call the tool `name` in a process of its own. Raises `ToolError`. A cancellation kills the process."""
    if not PLACES.acquire(blocking=False):
        raise ToolError("too many calls are under way, try again later")
    try:
        async with _process() as (process, reader, writer):
            _send(writer, _start(name, function, limits, input, context))
            while (received := await _receive(reader)) is not None:
                match received:
                    case Returned(result):
                        return msgspec.json.decode(result)
                    case Raised():
                        raise _error(name, limits, received)
                    case emission:
                        _send(writer, await _emit(emission, context.output))
            raise _death(limits, await process.wait())
    finally:
        PLACES.release()


def _start(name: str, function: Any, limits: Isolation, input: Any, context: ToolContext[Any]) -> CallStart:
    try:
        pickled = pickle.dumps(context.context)
    except Exception as fault:
        raise ToolError("the request's context cannot be sent to the tool's process") from fault
    return CallStart(
        [path or str(Path.cwd()) for path in sys.path],
        function.__module__,
        function.__qualname__,
        name,
        msgspec.json.encode(input),
        pickled,
        context.run,
        context.session,
        context.call,
        "" if context.output is None else context.output.agent,
        msgspec.json.encode(context.user_data),
        limits,
        context.approval,
        Audience.OPERATIONS if context.output is None else context.output.status_audience,
    )


async def _emit(
    emission: Emission | Preliminary | StoredArtifact, output: CallOutput | None
) -> EmissionAnswer:
    if output is None:
        return EmissionAnswer("nothing can be emitted here")
    try:
        match emission:
            case Emission(chunk, audience):
                await output.emit(chunks.decode(chunk), audience)
            case Preliminary(shown):
                await output.show_preliminary(msgspec.json.decode(shown))
            case StoredArtifact(artifact):
                await output.store_artifact(artifact)
    except (ValueError, RuntimeError) as fault:
        return EmissionAnswer(str(fault))
    return EmissionAnswer()


def _error(name: str, limits: Isolation, raised: Raised) -> ToolError:
    if raised.text is not None:
        return ToolError(raised.text)
    log.error("isolated_tool_failed", tool=name, error=raised.error, frames=raised.frames)
    if raised.error == MemoryError.__name__:
        return ToolError(f"the tool needs more than {limits.memory_bytes_max // 1024**2} MiB of memory")
    return ToolError(f"the tool failed ({raised.error})")


def _death(limits: Isolation, code: int) -> ToolError:
    if code == -signal.SIGXCPU:
        return ToolError(f"the tool needs more than {limits.cpu_s_max} s of CPU time")
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    log.error("isolated_tool_died", how=how)
    return ToolError(f"the tool's process ended ({how})")


@asynccontextmanager
async def _process() -> AsyncIterator[
    tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamWriter]
]:
    """The tool's process, which is killed with all that it has started at the end."""
    own_end, tool_end = socket.socketpair()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rejoin_runner.tools.isolated_process"),
            *(str(tool_end.fileno()), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(tool_end.fileno(),),
            process_group=0,
        )
    except BaseException:
        own_end.close()
        raise
    finally:
        tool_end.close()
    reader, writer = await asyncio.open_connection(sock=own_end)
    try:
        yield process, reader, writer
    finally:
        writer.close()
        await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    """On Linux the process is the keeper of the tool's process, and ends all of its family."""
    if sys.platform == "linux":
        with suppress(ProcessLookupError):
            process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(END_S_MAX):
                await process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _send(writer: asyncio.StreamWriter, message: CallStart | EmissionAnswer) -> None:
    with suppress(ConnectionError):  # the process has died: the next read says so
        writer.write(encode_frame(message))


async def _receive(reader: asyncio.StreamReader) -> FromProcess | None:
    """The next message; None if the process is gone."""
    try:
        size = int.from_bytes(await reader.readexactly(4))
        if size > FRAME_BYTES_MAX:
            raise ToolError("the result is too large")
        received: FromProcess = msgspec.msgpack.decode(await reader.readexactly(size), type=FromProcess)
    except (EOFError, ConnectionError):
        return None
    return received


def encode_frame(message: msgspec.Struct) -> bytes:
    """A message with its length."""
    payload = msgspec.msgpack.encode(message)
    return len(payload).to_bytes(4) + payload
