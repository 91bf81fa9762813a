"""Divides a process in two: one that works, and its keeper, which ends with all that the worker has started.

A process group is not enough: what a tool starts in a session of its own, or as a daemon, leaves the group,
and outlives a runner that is killed. The keeper adopts such orphans (PR_SET_CHILD_SUBREAPER, prctl(2)). It
ends all of them when the worker ends, when it gets SIGTERM, and when its owner dies (PR_SET_PDEATHSIG). Linux
only.
"""

import os
import resource
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from rejoin_adapters.embedded import launch

PR_SET_CHILD_SUBREAPER = 36
AWAITED = {signal.SIGTERM, signal.SIGCHLD}
PASS_S = 0.01
"""How long a pass over the descendants waits for the end of a child, at most."""
PASSES_MAX = 100


def divide(owner: int, fd: int) -> None:
    """Fork before there is any thread. Returns in the worker, which keeps `fd`; the keeper never returns, and
    ends as the worker ends. `owner`: the parent of this process.
    """
    launch.die_with_owner(owner, signal.SIGTERM)
    launch.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, AWAITED)
    keeper = os.getpid()
    worker = os.fork()
    if worker:
        os.close(fd)
        _keep(worker)
    os.setpgid(0, 0)  # a signal that the tool sends to its group does not reach the keeper
    launch.die_with_owner(keeper, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)


def _keep(worker: int) -> None:
    """Wait for the first reason to end, and end everything."""
    status = None
    while status is None and signal.sigwait(AWAITED) == signal.SIGCHLD:
        status = _reap().get(worker)
    end_descendants()
    code = 0 if status is None else os.waitstatus_to_exitcode(status)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):  # SIGKILL has no other action
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, AWAITED)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _reap() -> dict[int, int]:
    """The children that have ended, and their wait statuses."""
    ended = {}
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    return ended


def end_descendants() -> None:
    """Kill all descendants of this process, which is a subreaper, and wait for their ends. Those that may not
    be killed, because they are another user's, are left.
    """
    for _ in range(PASSES_MAX):
        found = list(descendants(os.getpid()))
        if not found:
            return
        for pid in found:
            with suppress(OSError):  # it has ended meanwhile, or is another user's
                os.kill(pid, signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, PASS_S)
        _reap()  # the children of those that have ended are ours now


def descendants(pid: int) -> Iterator[int]:
    """The processes below one, parents before their children, from proc(5)."""
    children = defaultdict(list)
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended meanwhile
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            children[int(fields[1])].append(int(path.parent.name))
    waiting = children[pid]
    while waiting:
        found = waiting.pop()
        yield found
        waiting += children[found]
