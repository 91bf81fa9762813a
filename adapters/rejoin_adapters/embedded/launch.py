"""The few instructions between fork and exec of an embedded server: a script, run by a Python of its own.

It owns three promises. The server ends when its owner does: by PR_SET_PDEATHSIG (prctl(2)) on Linux,
elsewhere by a watchdog that holds the reading end of a pipe. PostgreSQL, which refuses to be root, runs as
an unprivileged user even where only root may enter (`/root/project/.rejoin`): it keeps CAP_DAC_READ_SEARCH
or CAP_DAC_OVERRIDE as ambient capability (capabilities(7)), if and only if it could not reach its files
otherwise. And nothing on the host is changed for it: no user, no mode of a parent directory, no copy.

It never imports anything of ours: it starts with `-I -S` and only the standard library. It is a script and
not a `preexec_fn`, because that runs Python between fork and exec of a process that may have threads, which
can deadlock and is deprecated.
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
    """`user` is uid and gid, or None to stay who we are; `leash` a pipe's end, None on Linux."""

    argv: list[str]
    cwd: str
    owner_pid: int
    death_signal: int
    lock: int
    user: tuple[int, int] | None
    leash: int | None


def main(launch: Launch) -> None:
    """Become the server. Returns only by an exception."""
    if launch.user:
        become(*launch.user, launch.argv[0], launch.cwd)
    os.chdir(launch.cwd)
    if launch.leash is None:
        die_with_owner(launch.owner_pid, launch.death_signal)
    else:
        watch_owner(launch.leash, launch.death_signal, launch.lock)
    os.execv(launch.argv[0], launch.argv)  # noqa: S606  # without a shell is the point


def die_with_owner(owner_pid: int, death_signal: int) -> None:
    """Ask the kernel for a signal at the owner's end. After `become`: a change of user clears the request."""
    if not prctl(PR_SET_PDEATHSIG, death_signal):
        sys.exit("the kernel does not tell of the owner's end")
    if os.getppid() != owner_pid:  # the owner died before we asked, and nobody will tell us
        sys.exit("the owner is gone")


def watch_owner(leash: int, death_signal: int, lock: int) -> None:
    """Leave a child behind that ends the server when the pipe breaks, and ends itself with the server."""
    server_pid = os.getpid()
    if os.fork():
        os.close(leash)
        return
    for inherited in (0, 1, 2, lock):  # not to keep the server's lock, nor anybody's terminal
        os.close(inherited)
    while os.getppid() == server_pid:
        if select.select([leash], [], [], WATCHDOG_INTERVAL_S)[0]:
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
