"""Executes one delivery in a process of its own, so that it harms nobody if it ends its process.

The process is another `python -m rejoin_runner` with the same agents and settings. It gets the delivery as
one line on a socket, claims and executes the run as any runner does, and answers with one line: what to do
with the request. This side keeps the heartbeats and answers the broker. A process that ends without its line
has died. It dies with its parent. A process that has answered gets the next delivery: its start takes
seconds, in which many suspects would wait for each other.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Literal, NamedTuple, Self

import msgspec
import structlog

from rejoin_adapters.embedded import launch
from rejoin_adapters.ports.run_queue import Delivery
from rejoin_adapters.process.background import DetachedTasks
from rejoin_adapters.process.fair_share import FairShare
from rejoin_adapters.process.idle_pool import IdlePool
from rejoin_adapters.process.overload import die_first, read_container_memory
from rejoin_adapters.process.service_process import SUPERVISOR, SupervisorLink
from rejoin_protocol.ids import TenantId
from rejoin_protocol.limits import MIB
from rejoin_protocol.run_request import RunRequest

ALONE_MIN = 2
"""Processes at the same time, however little memory there is."""
ALONE_MAX = 8
"""Processes at the same time, however much memory there is."""
ALONE_BYTES = 96 * MIB
"""Memory of one: that of a runner with little to do."""
RUNNER_BYTES = 192 * MIB
"""Memory of the runner itself."""
START_S_MAX = 60.0
"""Seconds in which the process must have imported the agents and opened its connections."""
BEGUN = "begun"
IDLE_S = 10.0
"""A process without a delivery ends after this time."""
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


class AloneProcess(NamedTuple):
    """A process of its own, and the socket to it."""

    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, delivery: AloneDelivery) -> AloneAnswer | None:
        """Let it execute a delivery. None if it died. Raises `TimeoutError` if it does not begin."""
        self.writer.write(msgspec.json.encode(delivery) + b"\n")
        async with asyncio.timeout(START_S_MAX):
            begun = await _read_line(self.reader)
        line = await _read_line(self.reader) if begun else b""
        return msgspec.json.decode(line, type=AloneAnswer) if line else None

    async def kill(self) -> int:
        """End it, with what it has started. Returns its exit code."""
        self.writer.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return await asyncio.shield(self.process.wait())


def count_places(memory_bytes_max: int | None) -> int:
    """How many processes a runner with this memory limit may have beside itself. None: no limit. Pure."""
    if memory_bytes_max is None:
        return ALONE_MAX
    return max(ALONE_MIN, min(ALONE_MAX, (memory_bytes_max - RUNNER_BYTES) // ALONE_BYTES))


class Quarantine:
    """Starts the processes. `command`: the command line of this runner's process. Leaving the context ends
    those that wait for a delivery.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment
        self._places = FairShare(count_places(read_container_memory().limit_bytes))
        self._waiting = 0
        self._tasks = DetachedTasks()
        self._idle = IdlePool[AloneProcess](IDLE_S, lambda alone: self._tasks.start(alone.kill()))

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while (alone := self._idle.take()) is not None:
            await alone.kill()
        await self._tasks.__aexit__(kind, error, trace)

    async def execute(
        self, delivery: Delivery, tenant: TenantId, free_slot: Callable[[], None]
    ) -> AloneAnswer | None:
        """Execute a delivery alone; waits for a place, which tenants share fairly. Returns the answer, or
        None if the process died or did not begin. A cancellation kills the process. `free_slot`: called if
        other runs may use the worker's slot meanwhile.
        """
        self._waiting += 1
        try:
            if self._waiting <= WAITING_MAX:
                free_slot()
            place = await self._places.take(tenant)
            try:
                return await self._execute(delivery)
            finally:
                place.release()
        finally:
            self._waiting -= 1

    async def _execute(self, delivery: Delivery) -> AloneAnswer | None:
        alone = await self._process()
        answer = None
        try:
            log.info("run_alone", pid=alone.process.pid)
            answer = await alone.ask(
                AloneDelivery(delivery.request, delivery.delivery_count, dict(delivery.headers))
            )
        except TimeoutError:
            log.warning("process_did_not_begin", pid=alone.process.pid)
            return None
        finally:
            if answer is not None:
                self._idle.keep(alone)
            else:
                code = await alone.kill()
        if answer is None:
            log.error("run_ended_its_process", code=code)
        return answer

    async def _process(self) -> AloneProcess:
        """One that has answered, or a new one."""
        while (alone := self._idle.take()) is not None:
            if alone.process.returncode is None:
                return alone
            await alone.kill()
        return await self._start()

    async def _start(self) -> AloneProcess:
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
        return AloneProcess(process, *await asyncio.open_connection(sock=parent_end))


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
    die_first()


class RunnerLink:
    """In the process of its own: the socket to the runner."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket = socket.socket(fileno=int(environment[SUPERVISOR]))
        self._lines = self._socket.makefile("rb")

    async def deliveries(self) -> AsyncIterator[AloneDelivery]:
        """What the runner asks for, one after the other. Ends when the runner closes the socket."""
        while line := await asyncio.to_thread(self._lines.readline):
            yield msgspec.json.decode(line, type=AloneDelivery)

    def until_its_death(self) -> SupervisorLink:
        """A context in which this process ends when the runner does. The runner must not write meanwhile."""
        return SupervisorLink({SUPERVISOR: str(os.dup(self._socket.fileno()))})

    def answer(self, delivery: AloneDelivery) -> None:
        """Tell the runner what to do with the request."""
        self._socket.sendall(msgspec.json.encode(delivery.answer or AloneAnswer("leave")) + b"\n")
