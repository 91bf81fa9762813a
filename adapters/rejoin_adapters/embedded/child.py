"""A child process that ends when this process ends, for whatever reason.

Starts one process through `launch.py`, writes its log file and ends it. Does not restart it.

On Linux the kernel ties the child to the *thread* that started it. The event loop must therefore run in a
thread that lives as long as the child: the main thread, or one that ends after its loop.

The child has a process group of its own in our session. If this process dies while the child is stopped
(SIGSTOP), the group is orphaned and the kernel continues its stopped processes (SIGCONT), so that the child
can obey its death signal. A stopped process obeys only SIGKILL.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Self

from rejoin_adapters.embedded.launch import Launch

LAUNCHER = Path(__file__).with_name("launch.py")
NEEDS_WATCHDOG = sys.platform != "linux"  # only Linux has PR_SET_PDEATHSIG
LOG_SIZE_BYTES_MAX = 8 * 1024 * 1024  # checked at start; a larger log becomes `.log.old`
LOG_TAIL_BYTES_MAX = 2_000

type EndSignal = tuple[signal.Signals, float]  # a signal, and the seconds to wait after it


class Child:
    """A running process. Create it with `spawn`, await its end with `wait`, end it with `end`."""

    def __init__(
        self, process: asyncio.subprocess.Process, log: Path, log_start: int, watchdog_pipe_write: int
    ) -> None:
        self._process = process
        self._log = log
        self._log_start = log_start
        self._watchdog_pipe_write = watchdog_pipe_write

    @classmethod
    async def spawn(
        cls,
        argv: list[str],
        *,
        cwd: Path,
        log: Path,
        lock_fd: int,
        death_signal: signal.Signals,
        user: tuple[int, int] | None = None,
    ) -> Self:
        """Start `argv`, in a process group of its own (Ctrl-C is for us) and with an empty environment.

        The child and its own children keep `lock_fd` open, so its lock is held as long as one of them lives.
        """
        watchdog_pipe_read, watchdog_pipe_write = os.pipe() if NEEDS_WATCHDOG else (-1, -1)
        output = _open_log(log)
        try:
            watchdog_pipe = watchdog_pipe_read if NEEDS_WATCHDOG else None
            log_start = os.fstat(output).st_size
            launch = Launch(argv, str(cwd), os.getpid(), death_signal, lock_fd, user, watchdog_pipe)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(launch)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"LC_ALL": "C", "PATH": os.defpath},
                pass_fds=(lock_fd,) if watchdog_pipe is None else (lock_fd, watchdog_pipe),
                process_group=0,
            )
            return cls(process, log, log_start, watchdog_pipe_write)
        except BaseException:
            _close(watchdog_pipe_write)
            raise
        finally:
            os.close(output)
            _close(watchdog_pipe_read)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The return code, negative for a signal; None while the child runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the child's end; returns the return code."""
        return await self._process.wait()

    async def end(self, *end_signals: EndSignal) -> None:
        """Send these signals in order, waiting the given seconds after each, then SIGKILL. Returns when the
        process has ended.

        A cancellation does not leave the child running: the next signal is sent at once, and the cancellation
        is raised again when the process has ended.
        """
        cancelled: asyncio.CancelledError | None = None
        kill: EndSignal = (signal.SIGKILL, 3600.0)
        for signal_number, seconds in (*end_signals, kill, kill, kill):
            if self.returncode is not None:
                break
            self._process.send_signal(signal_number)
            try:
                async with asyncio.timeout(seconds):
                    await self.wait()
            except TimeoutError:
                continue
            except asyncio.CancelledError as cancel:
                cancelled = cancel
        _close(self._watchdog_pipe_write)
        self._watchdog_pipe_write = -1
        if cancelled:
            raise cancelled

    def log_tail(self) -> str:
        """The end of the child's log: at most `LOG_TAIL_BYTES_MAX`, and only what it wrote itself."""
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - LOG_TAIL_BYTES_MAX))
            return log.read().decode(errors="replace").strip()


def _open_log(path: Path) -> int:
    if path.exists() and path.stat().st_size > LOG_SIZE_BYTES_MAX:
        path.rename(path.with_suffix(".log.old"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
