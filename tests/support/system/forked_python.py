"""Python processes that have imported the product already: each is a fork of one process that has.

Importing takes a gateway, a runner or a command most of its start, about a second of CPU. A fork is otherwise
a process like any other: it has its own arguments, environment, working directory and output, gets signals,
and ends as Python does. Only `/proc` shows the command and the environment of the process it was forked from.
Tests of installations and of imports start Python itself, as `rejoin dev` does for its services.
"""

import asyncio
import atexit
import gc
import itertools
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[3]
IMPORTED = ("rejoin.cli.main", "rejoin.cli.admin_commands", "rejoin_gateway.app", "rejoin_runner.app")
MESSAGE_BYTES_MAX = 128 * 1024
START_TIMEOUT_S = 60.0


class Order(msgspec.Struct, frozen=True):
    """`python -m MODULE ARGUMENT…`, with exactly these environment variables. `number`: of this order."""

    number: int
    module: str
    arguments: Sequence[str]
    cwd: str
    variables: Mapping[str, str]


class Started(msgspec.Struct, frozen=True, tag=True):
    """The process of an order has started."""

    number: int
    pid: int


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A process has ended. `code`: its exit code, or the negative number of the signal that killed it."""

    pid: int
    code: int


class ForkServerGone(Exception):
    """The process that forks has ended: nobody tells of the ends of its forks any more."""


class Fork:
    """A running fork, as an `asyncio.subprocess.Process` without pipes."""

    def __init__(self, pid: int, ended: asyncio.Future[int]) -> None:
        self.pid = pid
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        """Its exit code once it has ended. Raises `ForkServerGone`."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Wait for its end; returns the exit code. Raises `ForkServerGone`."""
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if not self._ended.done() or self._ended.exception() is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The process that has imported everything, as seen by the tests. It ends with them."""

    def __init__(self) -> None:
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setblocking(False)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other.fileno())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(other.fileno(),),
            )
        self._numbers = itertools.count()
        self._started: dict[int, asyncio.Future[Fork]] = {}
        self._running: dict[int, asyncio.Future[int]] = {}
        asyncio.get_running_loop().add_reader(self._connection, self._receive)
        atexit.register(self._close)

    async def fork(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        cwd: Path,
        variables: Mapping[str, str],
        stdout: int,
        stderr: int,
    ) -> Fork:
        """Start a process with these open files as its output."""
        plain = {name: str(value) for name, value in variables.items()}  # some are of a subclass of `str`
        order = Order(next(self._numbers), module, arguments, str(cwd), plain)
        started: asyncio.Future[Fork] = asyncio.get_running_loop().create_future()
        self._started[order.number] = started
        socket.send_fds(self._connection, [msgspec.json.encode(order)], [stdout, stderr])
        async with asyncio.timeout(START_TIMEOUT_S):
            return await started

    def _receive(self) -> None:
        try:
            message = self._connection.recv(MESSAGE_BYTES_MAX)
        except ConnectionResetError:  # it had not read all orders
            message = b""
        if not message:
            asyncio.get_running_loop().remove_reader(self._connection)
            self._fail_all()
            return
        told = msgspec.json.decode(message, type=Started | Ended)
        if isinstance(told, Ended):
            self._running.pop(told.pid).set_result(told.code)
            return
        self._running[told.pid] = ended = asyncio.get_running_loop().create_future()
        fork, started = Fork(told.pid, ended), self._started.pop(told.number)
        if started.cancelled():
            fork.kill()
        else:
            started.set_result(fork)

    def _fail_all(self) -> None:
        gone = ForkServerGone(f"the fork server has ended with the exit code {self._process.wait()}")
        futures: list[asyncio.Future[Any]] = [*self._started.values(), *self._running.values()]
        for awaited in futures:
            if not awaited.done():
                awaited.set_exception(gone)
                awaited.exception()  # read: not all forks are awaited

    def _close(self) -> None:
        self._connection.close()
        self._process.wait()


@cache
def fork_server() -> ForkServer:
    """The fork server of this process and its event loop."""
    return ForkServer()


# ------------------------------------------------------------------------------ the process itself


def take_orders(connection: socket.socket) -> tuple[Order, Sequence[int]] | None:
    """Fork for each order. Returns in each fork, with its order and files; and when the tests are gone."""
    with selectors.DefaultSelector() as running:
        running.register(connection, selectors.EVENT_READ)
        while True:
            for key, _ in running.select():
                if key.fileobj is not connection:
                    running.unregister(key.fileobj)
                    os.close(key.fd)
                    _, status = os.waitpid(key.data, 0)
                    connection.send(msgspec.json.encode(Ended(key.data, os.waitstatus_to_exitcode(status))))
                    continue
                message, files, _, _ = socket.recv_fds(connection, MESSAGE_BYTES_MAX, 2)
                if not message:
                    return None
                order = msgspec.json.decode(message, type=Order)
                if not (pid := os.fork()):
                    return order, files
                for file in files:
                    os.close(file)
                running.register(os.pidfd_open(pid), selectors.EVENT_READ, pid)
                connection.send(msgspec.json.encode(Started(order.number, pid)))


def become(order: Order, files: Sequence[int]) -> None:
    """Run what is ordered, with no open file of the process before."""
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(order.cwd)
    os.environ.clear()
    os.environ.update(order.variables)
    sys.path[0] = order.cwd
    sys.argv[1:] = order.arguments
    runpy.run_module(order.module, run_name="__main__", alter_sys=True)


def main(fd: str) -> None:
    """Import everything once, then fork."""
    for module in IMPORTED:
        import_module(module)
    gc.collect()
    gc.freeze()
    assert threading.active_count() == 1, threading.enumerate()  # a fork would have the first of them alone
    connection = socket.socket(fileno=int(fd))
    taken = take_orders(connection)
    connection.close()
    if taken is not None:
        become(*taken)


if __name__ == "__main__":
    main(sys.argv[1])
