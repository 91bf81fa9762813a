"""Prepares this process and then executes an embedded server in it: a script with an interpreter of its own.

It guarantees three things. The server ends when its owner does: by PR_SET_PDEATHSIG (prctl(2)) on Linux,
elsewhere by a watchdog that holds the reading end of a pipe. PostgreSQL, which refuses to run as root, runs
as an unprivileged user even in directories that only root may enter (`/root/project/.rejoin`): it keeps
CAP_DAC_READ_SEARCH or CAP_DAC_OVERRIDE as ambient capability (capabilities(7)), but only if it cannot reach
its files otherwise. Nothing on the host changes: no user, no mode of a parent directory, no copy.

The script imports only the standard library: it runs with `-I -S`. A `preexec_fn` instead would run Python
between fork and exec of a process that may have threads, which can deadlock and is deprecated.
"""

import ctypes
import json
import os
import select
import sys
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP = 28, 4
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
# Least first. Reading and entering is enough, except where root alone may execute the binary (umask 077), or
# where a container has only the other one.
CAPABILITY_SETS = (
    0,
    1 << CAP_DAC_READ_SEARCH,
    1 << CAP_DAC_OVERRIDE,
    1 << CAP_DAC_READ_SEARCH | 1 << CAP_DAC_OVERRIDE,
)
WATCHDOG_INTERVAL_S = 0.5


class Launch(NamedTuple):
    """What to execute. `user`: uid and gid, or None to keep the present user. `lock_fd`: the open lock file.
    `watchdog_pipe`: the reading end of the watchdog's pipe; None on Linux.
    """

    argv: list[str]
    cwd: str
    owner_pid: int
    death_signal: int
    lock_fd: int
    user: tuple[int, int] | None
    watchdog_pipe: int | None


def main(launch: Launch) -> None:
    """Become the server. Returns only by an exception."""
    if launch.user:
        become(*launch.user, launch.argv[0], launch.cwd)
    os.chdir(launch.cwd)
    if launch.watchdog_pipe is None:
        die_with_owner(launch.owner_pid, launch.death_signal)
    else:
        watch_owner(launch.watchdog_pipe, launch.death_signal, launch.lock_fd)
    os.execv(launch.argv[0], launch.argv)  # noqa: S606  # no shell is needed


def die_with_owner(owner_pid: int, death_signal: int) -> None:
    """Ask the kernel for a signal at the owner's end. After `become`: a change of user clears the request."""
    if not prctl(PR_SET_PDEATHSIG, death_signal):
        sys.exit("the kernel refuses to signal the owner's end")
    if os.getppid() != owner_pid:  # the owner died before the request: no signal will come
        sys.exit("the owner is gone")


def watch_owner(watchdog_pipe: int, death_signal: int, lock_fd: int) -> None:
    """Start a watchdog: a child that ends the server when the pipe breaks, and then itself."""
    server_pid = os.getpid()
    if os.fork():
        os.close(watchdog_pipe)
        return
    for fd in (0, 1, 2, lock_fd):  # the watchdog must not hold the server's lock or the terminal
        os.close(fd)
    while os.getppid() == server_pid:
        if select.select([watchdog_pipe], [], [], WATCHDOG_INTERVAL_S)[0]:
            os.kill(server_pid, death_signal)
            break
    os._exit(0)


def become(uid: int, gid: int, *paths: str) -> None:
    """Give up root for good, keeping the least capabilities with which the new user reaches all `paths`."""
    # Without this bit the change of user empties our capabilities, and access(2), by which PostgreSQL judges
    # its own binaries, ignores them. It may be refused (a container, macOS): then it has to go without.
    capable = sys.platform == "linux" and prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setregid(gid, gid)
    os.setreuid(uid, uid)
    if not (reach_with_least(paths) if capable else reachable(paths)):
        sys.exit(
            f"PostgreSQL does not run as root, and user {uid}, whom it runs as, cannot enter "
            f"{' or '.join(paths)}: use a data directory (and a virtual environment) outside of root's home, "
            "or run as a plain user"
        )


def reach_with_least(paths: tuple[str, ...]) -> bool:
    """Settle for the least capability set that reaches all paths, and let it survive the exec."""
    ceiling = permitted_capabilities() & CAPABILITY_SETS[-1]
    for wanted in CAPABILITY_SETS:
        if set_capabilities(wanted, ceiling) and reachable(paths):
            break
    else:
        return False
    if not set_capabilities(wanted, wanted):
        return False
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        if wanted & 1 << capability and not prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability):
            return False
    return True


def reachable(paths: tuple[str, ...]) -> bool:
    """Whether we may execute or enter every one of them, with the capabilities in effect now."""
    return all(os.access(path, os.X_OK) for path in paths)


def permitted_capabilities() -> int:
    """The bit set of those that we may put into effect, of the first 32."""
    header, data = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    ctypes.CDLL(None).capget(header, data)
    return int(data[1])


def set_capabilities(effective: int, permitted: int) -> bool:
    """Put some into effect (and let them be inherited), keep others within reach; False if refused."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(effective, permitted, effective)
    return not ctypes.CDLL(None).capset(header, data)


def prctl(option: int, *values: int) -> bool:
    """The system call of that name, whose unused arguments must be zeros; False if refused."""
    arguments = [*values, 0, 0, 0, 0][:4]
    return not ctypes.CDLL(None).prctl(option, *map(ctypes.c_ulong, arguments))


if __name__ == "__main__":
    main(Launch(*json.loads(sys.argv[1])))
