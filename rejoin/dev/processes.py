"""The gateways and runners of `rejoin dev`: processes that are kept alive, and told what they need to know.

A process is started before the servers that it needs: it imports its code meanwhile (`ahead`). What is said
over the socket that ties it to us: one line to it, its variables; lines from it, that it is ready or what it
wishes. When either end closes, the other is dead.
"""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import msgspec
import structlog
from rejoin_adapters.service.background import run_alongside
from rejoin_adapters.service.service_process import SUPERVISOR
from rejoin_protocol.errors import Invalid

log = structlog.get_logger("rejoin.dev")

KILL_RUNNER = "kill-runner"
"""What a gateway may ask for, in a line to its supervisor."""
STOP_GRACE_S = 15.0
RESTART_FIRST_S = 0.1
RESTART_MAX_S = 5.0
STABLE_S = 10.0
"""A child that lived this long is started again at once."""

type Variables = Mapping[str, str]


class DevProcesses:
    """The processes of one `rejoin dev`, made by `started_processes`.

    `default_agent`: whom the gateways ask unless a request says it; None: the first that a runner names.
    """

    def __init__(
        self,
        runners: Sequence[Sequence[str]],
        gateways: Mapping[int, Sequence[str]],
        environment: Variables,
        default_agent: str | None,
    ) -> None:
        """The arguments of each; a gateway's by its port."""
        self._runners = [
            SupervisedProcess(
                f"runner {number}", ["rejoin_runner.app", "rejoin_runner", *arguments], environment
            )
            for number, arguments in enumerate(runners)
        ]
        self._gateways = [
            SupervisedProcess(
                f"gateway {number}",
                ["rejoin_gateway.app", "rejoin", *arguments],
                {**environment, "REJOIN_PORT": str(port)},
                {KILL_RUNNER: self.kill_runners},
            )
            for number, (port, arguments) in enumerate(gateways.items())
        ]
        self._default = default_agent

    @property
    def all(self) -> Sequence["SupervisedProcess"]:
        """Each of them."""
        return (*self._runners, *self._gateways)

    async def keep(self, variables: Variables) -> None:
        """Tell them, and keep them alive."""
        async with run_alongside(*(runner.keep(variables) for runner in self._runners)):
            default = self._default or (await self._runners[0].ready())[0]
            variables = {**variables, "REJOIN_DEFAULT_AGENT": default}
            async with run_alongside(*(gateway.keep(variables) for gateway in self._gateways)):
                await asyncio.Event().wait()

    def kill_runners(self) -> None:
        """As a crash would: the playground's button."""
        for runner in self._runners:
            runner.kill()

    async def ready(self) -> None:
        """Until each has been ready once."""
        for service in self.all:
            await service.ready()


@asynccontextmanager
async def started_processes(services: DevProcesses) -> AsyncIterator[None]:
    """Their processes, from here on; at the end none is left, whether it was kept alive or not."""
    try:
        for service in services.all:
            await service.start()
        yield
    finally:
        async with asyncio.TaskGroup() as group:
            for service in services.all:
                group.create_task(service.end())


class _Running(NamedTuple):
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class SupervisedProcess:
    """A gateway or runner process that is started again whenever it dies."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Variables,
        wishes: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = environment
        self._wishes = wishes or {}
        self._running: _Running | None = None
        self._ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def ready(self) -> list[str]:
        """What it said about itself when it was ready for the first time."""
        return await asyncio.shield(self._ready)

    def kill(self) -> None:
        """SIGKILL, if it runs; it is started again."""
        if self._running is not None and self._running.process.returncode is None:
            self._running.process.kill()

    async def start(self) -> None:
        """The process, which waits to be told its variables."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rejoin.dev.preload", *self._arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
                env={**self._environment, SUPERVISOR: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                process_group=0,  # Ctrl-C is ours to hear
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._running = _Running(process, *await asyncio.open_connection(sock=ours))

    async def keep(self, variables: Variables) -> None:
        """For ever. Raises `Invalid` if it dies before it was ever ready: trying again would not help."""
        wait_s = RESTART_FIRST_S
        while True:
            began = time.monotonic()
            code = await self._once(variables)
            if not self._ready.done():
                raise Invalid(f"{self.name} did not start (exit code {code}): see its last words above")
            wait_s = (
                RESTART_FIRST_S if time.monotonic() - began > STABLE_S else min(wait_s * 2, RESTART_MAX_S)
            )
            log.warning("service_died", service=self.name, code=code, restart_in_s=wait_s)
            await asyncio.sleep(wait_s)
            await self.start()

    async def _once(self, variables: Variables) -> int:
        """From what it is told to its end."""
        if self._running is None:
            raise RuntimeError("it was not started")
        process, reader, writer = self._running
        try:
            writer.write(msgspec.json.encode(variables) + b"\n")
            with suppress(ConnectionError):  # it has died already
                await self._listen(reader)
            return await process.wait()
        finally:
            await self.end()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Until the process closes its end, as it does when it dies."""
        async for line in reader:
            word, *facts = line.decode().split()
            if word == "ready" and not self._ready.done():
                self._ready.set_result(facts)
            elif word in self._wishes:
                self._wishes[word]()

    async def end(self) -> None:
        """SIGTERM, and SIGKILL for one that does not listen; a cancellation only makes it quicker."""
        if self._running is None:
            return
        process, _, writer = self._running
        try:
            if process.returncode is None:
                process.terminate()
                async with asyncio.timeout(STOP_GRACE_S):
                    await process.wait()
        except (TimeoutError, asyncio.CancelledError) as cause:
            process.kill()
            await process.wait()
            if isinstance(cause, asyncio.CancelledError):
                raise
        finally:
            writer.close()
