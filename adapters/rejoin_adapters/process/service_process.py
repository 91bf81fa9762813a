"""What every service process does: signals, the open-file limit, the link to its supervisor."""

import asyncio
import gc
import os
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, Self

SUPERVISOR = "REJOIN_SUPERVISOR_FD"
OPEN_FILES_MAX = 65_536

type LogFormat = Literal["auto", "json", "console"]


def raise_open_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, at most `OPEN_FILES_MAX`: each stream is an open
    file, and the default soft limit is often 1,024. Returns the limit.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = OPEN_FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_MAX)
    if soft == resource.RLIM_INFINITY or soft >= target:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    except (OSError, ValueError):  # the system allows less than its hard limit
        return soft
    return target


@contextmanager
def on_stop(callback: Callable[[], None]) -> Iterator[None]:
    """Call `callback` on SIGTERM and SIGINT; a second signal ends the process as usual."""
    loop = asyncio.get_running_loop()

    def on_first_signal() -> None:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signal_number)
        callback()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, on_first_signal)
    try:
        yield
    finally:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(signal_number)


class SupervisorLink:
    """The socket to the process that supervises this one, if there is one."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        fd = variables.get(SUPERVISOR)
        self._socket = socket.socket(fileno=int(fd)) if fd else None

    def __enter__(self) -> Self:
        if self._socket is not None:
            asyncio.get_running_loop().add_reader(self._socket, self._on_supervisor_death)
        return self

    def __exit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    def ready(self, *details: str) -> None:
        """Report that the service is ready, with details for the supervisor. Also freezes the objects in
        memory: a garbage collection that traverses them would pause all streams for 50 to 100 ms.
        """
        gc.freeze()
        self.say("ready", *details)

    def say(self, *words: str) -> None:
        """Send a line to the supervisor."""
        if self._socket is not None:
            self._socket.sendall(" ".join(words).encode() + b"\n")

    def _on_supervisor_death(self) -> None:
        # The supervisor never writes, so the socket is readable only when it closed: the supervisor has died.
        # This process must not outlive it; other processes continue its work.
        os.kill(os.getpid(), signal.SIGKILL)
