"""Executes one delivery in a process of its own, so that it harms nobody if it ends its process.

The process is another `python -m rejoin_runner` with the same agents and settings. It gets the delivery as
one line on a socket, claims and executes the run as any runner does, and answers with one line: what to do
with the request. This side keeps the heartbeats and answers the broker. A process that ends without its line
has died. It dies with its parent.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from rejoin_adapters.embedded import launch
from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.process.service_process import SUPERVISOR
from rejoin_protocol.run_request import RunRequest

ALONE_MAX = 2
"""Processes at the same time; each needs the memory of a runner."""
START_S_MAX = 60.0
"""Seconds in which the process must have imported the agents and opened its connections."""
BEGUN = "begun"
WAITING_MAX = 256
"""Deliveries that wait here, or are executed here, without a slot of the worker."""
ALONE_OPTION = "--alone"

log = structlog.get_logger("rejoin.quarantine")


class AloneDelivery(msgspec.Struct):
    """The delivery as the process of its own sees it: what it answers is for the parent."""

    request: RunRequest
    delivery_count: int
    headers: dict[str, str] = {}
    answer: "AloneAnswer | None" = None
    pending_count: int = 0
    receipt: str = ""
    age_s: float | None = None

    async def ack(self) -> None:
        """See `Delivery`."""
        self.answer = AloneAnswer("ack")

    async def nak(self, delay_s: float = 0) -> None:
        """See `Delivery`."""
        self.answer = AloneAnswer("nak", delay_s)


class AloneAnswer(msgspec.Struct, frozen=True):
    """The answer of the process: what to do with the request. `leave`: nothing, because another runner has
    it.
    """

    kind: Literal["ack", "nak", "leave"]
    delay_s: float = 0


class Quarantine:
    """Starts the processes. `command`: the command line of this runner's process."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._places = asyncio.Semaphore(ALONE_MAX)
        self._waiting = 0

    async def execute(self, delivery: Delivery, free_slot: Callable[[], None]) -> AloneAnswer | None:
        """Execute a delivery alone; waits for a place. Returns the answer, or None if the process died. A
        cancellation kills the process. `free_slot`: called if other runs may use the worker's slot meanwhile.
        """
        self._waiting += 1
        try:
            if self._waiting <= WAITING_MAX:
                free_slot()
            return await self._execute(delivery)
        finally:
            self._waiting -= 1

    async def _execute(self, delivery: Delivery) -> AloneAnswer | None:
        async with self._places, self._start() as (process, reader, writer):
            log.info("run_alone", pid=process.pid)
            sent = AloneDelivery(delivery.request, delivery.delivery_count, dict(delivery.headers))
            writer.write(msgspec.json.encode(sent) + b"\n")
            async with asyncio.timeout(START_S_MAX):
                begun = await _read_line(reader)
            if begun and (line := await _read_line(reader)):
                return msgspec.json.decode(line, type=AloneAnswer)
            log.error("run_ended_its_process", code=await process.wait())
            return None

    @asynccontextmanager
    async def _start(
        self,
    ) -> AsyncIterator[tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.StreamWriter]]:
        parent_end, child_end = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rejoin_runner", *self._command, ALONE_OPTION, str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                env={**self._environment, SUPERVISOR: str(child_end.fileno())},
                pass_fds=(child_end.fileno(),),
                process_group=0,
            )
        except BaseException:
            parent_end.close()
            raise
        finally:
            child_end.close()
        reader, writer = await asyncio.open_connection(sock=parent_end)
        try:
            yield process, reader, writer
        finally:
            writer.close()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started
            await process.wait()


async def _read_line(reader: asyncio.StreamReader) -> bytes:
    """The next line; empty if the process is gone."""
    try:
        return await reader.readline()
    except ConnectionError:
        return b""


def die_with(parent: int) -> None:
    """In the process of its own: end when the runner ends, also while the event loop is blocked, and before
    the runner if the system runs out of memory.
    """
    if sys.platform != "linux":
        return  # then only the socket tells that the runner is gone
    launch.die_with_owner(parent, signal.SIGKILL)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def read_delivery(environment: Mapping[str, str]) -> AloneDelivery:
    """In the process of its own: wait for the delivery. Exits if the parent is gone."""
    with socket.socket(fileno=os.dup(int(environment[SUPERVISOR]))) as parent, parent.makefile("rb") as lines:
        line = lines.readline()
    if not line:
        sys.exit("the runner is gone")
    return msgspec.json.decode(line, type=AloneDelivery)


def encode_answer(delivery: AloneDelivery) -> str:
    """The line for the parent."""
    return msgspec.json.encode(delivery.answer or AloneAnswer("leave")).decode()
