"""Tools for processes of their own: each does what a tool in the runner's process must not do."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from rejoin_runner.tools.isolated_calls import Isolation
from rejoin_runner.tools.tool_context import SyncToolContext, ToolContext
from rejoin_runner.tools.tool_decorator import tool
from rejoin_runner.tools.tool_error import ToolError

MEMORY_BYTES_MAX = 512 * 1024**2
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
DAEMON = f"import subprocess; print(subprocess.Popen({SLEEP!r}, start_new_session=True, stdout=-3).pid)"


class Shop(msgspec.Struct):
    """A context."""

    name: str


@tool(isolate=True)
async def where(context: ToolContext[Shop], word: str) -> dict[str, object]:
    """Say in which process this is, and what is known there."""
    settings = [name for name in os.environ if name.startswith("REJOIN_")]
    return {"pid": os.getpid(), "shop": context.context.name, "word": word, "settings": settings}


@tool(isolate=True)
def draw(context: SyncToolContext[None], lines: int) -> str:
    """Draw lines, and show each of them."""
    for line in range(lines):
        context.emit_status(f"line {line}")
    context.emit_artifact(type="drawing", name="lines", data={"lines": lines})
    return "drawn"


@tool(isolate=True)
async def grow() -> AsyncIterator[int]:
    """Show preliminary results."""
    for number in range(3):
        yield number


@tool(isolate=True)
async def fail(kind: str) -> str:
    """Raise something."""
    if kind == "told":
        raise ToolError("the shop is closed")
    if kind == "exit":
        raise SystemExit(4)
    raise ValueError("a secret")


@tool(isolate=True)
async def die(number: int) -> str:
    """End the process with a signal, or with an exit code."""
    if number < 0:
        os.kill(os.getpid(), -number)
    os._exit(number)


@tool(isolate=Isolation(memory_bytes_max=MEMORY_BYTES_MAX))
def eat(size: int) -> int:
    """Use memory."""
    return len(bytearray(size))


@tool(isolate=Isolation(cpu_s_max=1))
def burn() -> str:
    """Use CPU time."""
    while True:
        pass


def leave_processes() -> list[int]:
    """Start processes that never end: a child, a child in a session of its own, and a daemon of that kind."""
    children = [subprocess.Popen(SLEEP, start_new_session=own) for own in (False, True)]
    daemon = subprocess.run([sys.executable, "-S", "-c", DAEMON], stdout=subprocess.PIPE, check=True)
    return [*(child.pid for child in children), int(daemon.stdout)]


@tool(isolate=True, timeout_s=2.0)
def hang(mark: str) -> str:
    """Never return, and start processes that never do."""
    Path(mark).write_text(" ".join(map(str, [os.getpid(), *leave_processes()])))
    signal.pause()
    time.sleep(600)
    return "back"


@tool(isolate=True)
def leave(how: str) -> list[int]:
    """Start processes that never end, then return, or end by a signal."""
    pids = leave_processes()
    if how != "return":
        Path(how).write_text(" ".join(map(str, pids)))
        os.kill(os.getpid(), signal.SIGKILL)
    return pids


@tool(isolate=True)
async def wait(mark: str) -> str:
    """Wait until somebody ends it."""
    Path(mark).write_text(str(os.getpid()))  # noqa: ASYNC240 - nothing else runs here
    await asyncio.Event().wait()
    return "back"


@tool(isolate=True)
async def stop_keeper() -> int:
    """Stop the process that ends this one."""
    os.kill(os.getppid(), signal.SIGSTOP)
    return os.getpid()
