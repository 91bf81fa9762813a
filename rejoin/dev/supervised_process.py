"""One child process of `rejoin dev`, restarted whenever it dies.

The control socket connects the parent to the child. The parent sends one line, a JSON object of environment
variables. The child sends lines of words: `ready FACT…`, or the name of a command for the parent. When one
end closes, its process has died.
"""

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec
import structlog

from rejoin_adapters.process.service_process import SUPERVISOR
from rejoin_protocol.errors import Invalid

log = structlog.get_logger("rejoin.dev")

STOP_GRACE_S = 15.0
RESTART_DELAY_MIN_S = 0.1
RESTART_DELAY_MAX_S = 5.0
"""A child that dies before it is ready is restarted after twice the last delay. One that was ready works, and
what has killed it says nothing about its next start.
"""

type Variables = Mapping[str, str]


class _Child(NamedTuple):
    process: asyncio.subprocess.Process
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class SupervisedProcess:
    """A child process: call `start`, then `supervise`, and `stop` at the end.

    `arguments` returns those of `rejoin.dev.preload`, at each start. `commands`: what to call for each
    command of the child.
    """

    def __init__(
        self,
        name: str,
        arguments: Callable[[], Sequence[str]],
        environment: Variables,
        commands: Mapping[str, Callable[[], None]] | None = None,
    ) -> None:
        self.name = name
        self._arguments = arguments
        self._environment = environment
        self._commands = commands or {}
        self._child: _Child | None = None
        self._ready: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        self._is_ready = False
        """Whether the present child has been ready."""
        self._restart = asyncio.Event()

    @property
    def was_ready(self) -> bool:
        """Whether the child has been ready once."""
        return self._ready.done()

    async def ready(self) -> list[str]:
        """Wait until the child has been ready once. Returns the facts that it sent."""
        return await asyncio.shield(self._ready)

    def kill(self) -> None:
        """Send SIGKILL to a running child; `supervise` restarts it."""
        if self._child is not None and self._child.process.returncode is None:
            self._child.process.kill()

    def restart(self) -> None:
        """Send SIGTERM to a running child. `supervise` starts it again at once, also one that has died."""
        self._restart.set()
        if self._child is not None and self._child.process.returncode is None:
            self._child.process.terminate()

    async def start(self) -> None:
        """Start the child. It imports its code, then waits for its variables."""
        parent_end, child_end = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rejoin.dev.preload", *self._arguments()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr,
                env={**self._environment, SUPERVISOR: str(child_end.fileno())},
                pass_fds=(child_end.fileno(),),
                process_group=0,  # Ctrl-C reaches the parent alone, which stops its children in order
            )
        except BaseException:
            parent_end.close()
            raise
        finally:
            child_end.close()
        self._is_ready = False
        self._child = _Child(process, *await asyncio.open_connection(sock=parent_end))

    async def supervise(self, variables: Variables) -> None:
        """Send the variables, and restart the child whenever it dies, until cancelled.

        Raises `Invalid` if the child dies before it was ready for the first time: a restart would not help.
        """
        delay_s = RESTART_DELAY_MIN_S
        while True:
            code = await self._run_child(variables)
            if not self._restart.is_set():
                if not self._ready.done():
                    raise Invalid(
                        f"{self.name} did not start (exit code {code}): see its last log lines above"
                    )
                delay_s = RESTART_DELAY_MIN_S if self._is_ready else min(delay_s * 2, RESTART_DELAY_MAX_S)
                log.warning("service_died", service=self.name, code=code, restart_in_s=delay_s)
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._restart.wait()
            self._restart.clear()
            await self.start()

    async def _run_child(self, variables: Variables) -> int:
        """Send the variables and follow the child to its end. Returns its exit code."""
        if self._child is None:
            raise RuntimeError("call start() first")
        process, reader, writer = self._child
        try:
            writer.write(msgspec.json.encode(variables) + b"\n")
            with suppress(ConnectionError):  # the child has already died
                await self._read_lines(reader)
            return await process.wait()
        finally:
            await self.stop()

    async def _read_lines(self, reader: asyncio.StreamReader) -> None:
        """Until the child's end of the socket closes, which happens when the child dies."""
        async for line in reader:
            word, *facts = line.decode().split()
            self._is_ready |= word == "ready"
            if word == "ready" and not self._ready.done():
                self._ready.set_result(facts)
            elif word in self._commands:
                self._commands[word]()

    async def stop(self) -> None:
        """Send SIGTERM, and SIGKILL after `STOP_GRACE_S`. A cancellation sends SIGKILL at once."""
        if self._child is None:
            return
        process, _, writer = self._child
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
