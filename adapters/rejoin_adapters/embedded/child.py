"""A child process that ends when this process ends, for whatever reason.

Starts one process through `launch.py`, writes its log file and ends it. Does not restart it.

On Linux the kernel ties the child to the *thread* that started it. The event loop must therefore run in a
thread that lives as long as the child: the main thread, or one that ends after its loop.

The child has a process group of its own in our session, also for this reason: if this process dies while the
child is stopped (SIGSTOP), the group is orphaned and the kernel sends SIGCONT; a stopped process obeys only
SIGKILL.
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
WATCHDOG = sys.platform != "linux"  # where there is no PR_SET_PDEATHSIG
LOG_SIZE_BYTES_MAX = 8 * 1024 * 1024  # looked at when a server starts: the older log is kept once
LOG_TAIL_BYTES_MAX = 2_000

type Step = tuple[signal.Signals, float]  # a signal and how many seconds it gets


class Child:
    """A running process. Create it with `spawn`, await its end with `wait`, end it with `end`."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path, log_start: int, leash: int) -> None:
        self._process = process
        self._log = log
        self._log_start = log_start
        self._leash = leash

    @classmethod
    async def spawn(
        cls,
        argv: list[str],
        *,
        cwd: Path,
        log: Path,
        lock: int,
        death_signal: signal.Signals,
        user: tuple[int, int] | None = None,
    ) -> Self:
        """Start `argv`, in a process group of its own (Ctrl-C is for us) and with an empty environment.

        The child keeps `lock` open, so a lock on it says whether the child, or one of *its* children, lives.
        """
        reading, writing = os.pipe() if WATCHDOG else (-1, -1)
        output = _open_log(log)
        try:
            leash = reading if WATCHDOG else None
            log_start = os.fstat(output).st_size
            launch = Launch(argv, str(cwd), os.getpid(), death_signal, lock, user, leash)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(LAUNCHER), json.dumps(launch)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={"LC_ALL": "C", "PATH": os.defpath},
                pass_fds=(lock,) if leash is None else (lock, leash),
                process_group=0,
            )
            return cls(process, log, log_start, writing)
        except BaseException:
            _close(writing)
            raise
        finally:
            os.close(output)
            _close(reading)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The return code, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for its end; returns the return code."""
        return await self._process.wait()

    async def end(self, *steps: Step) -> None:
        """End it by these signals, each with its timeout, then by SIGKILL. It has ended when this returns.

        A cancellation does not leave it running: the next signal is sent at once, and the cancellation is
        raised again when the process has ended.
        """
        cancelled: asyncio.CancelledError | None = None
        last: Step = (signal.SIGKILL, 3600.0)
        for number, seconds in (*steps, last, last, last):
            if self.returncode is not None:
                break
            self._process.send_signal(number)
            try:
                async with asyncio.timeout(seconds):
                    await self.wait()
            except TimeoutError:
                continue
            except asyncio.CancelledError as cancel:
                cancelled = cancel
        _close(self._leash)
        self._leash = -1
        if cancelled:
            raise cancelled

    def log_tail(self) -> str:
        """The end of its log."""
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
