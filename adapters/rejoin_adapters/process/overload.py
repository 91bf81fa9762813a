"""Whether a process is close to a limit: of memory, where the kernel would end it, of open files, or of its
event loop's lag. A process that is close to one takes no new work and finishes what it has.

A container's memory limit holds for all of its processes together: also for those that decode images, or that
execute a tool or a suspected run. So the container's own figure is compared with the container's limit.
"""

import ctypes
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import structlog

MEMORY = "memory"
MEMORY_SHARE_MAX = 0.85
"""The share of the memory limit above which a process counts as overloaded. The rest is for the work in
progress.
"""
FILES_SHARE_MAX = 0.9
LAG_S_MAX = 2.0
"""A loop that is later than this answers nobody in time."""
MMAP_THRESHOLD = -3
"""`M_MMAP_THRESHOLD` of glibc's `malloc.h`."""
LARGE_BLOCK_BYTES = 384 * 1024
"""A block of memory from this size on goes back to the system when it is freed. Larger than what asyncio
receives at once, which would cost a system call each.
"""
CGROUPS = Path("/sys/fs/cgroup")
CGROUP_FILES = (
    ("memory.max", "memory.current", ("inactive_file", "active_file")),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
"""Of control groups of version 2 and 1: the limit, the usage, and the rows of `memory.stat` with the cache of
files, which the kernel drops before it ends a process (its cgroup-v2.rst and cgroup-v1/memory.rst).
"""
UNLIMITED_BYTES = 1 << 60
"""The kernel writes a number this large, or a word, where there is no limit."""

log = structlog.get_logger("rejoin.overload")


class ProcessUsage(NamedTuple):
    """What a process uses and may use; None where there is no limit."""

    memory_bytes: int
    memory_bytes_max: int | None
    files: int
    files_max: int | None
    container: "ContainerMemory | None" = None


class ContainerMemory(NamedTuple):
    """What all processes of this container use together and may use; None where there is no limit."""

    used_bytes: int = 0
    limit_bytes: int | None = None


class Overload:
    """Looked at from time to time by `ProcessMetrics.watch_loop`."""

    def __init__(
        self,
        read_usage: "Callable[[], ProcessUsage] | None" = None,
        free_memory: "Callable[[], None] | None" = None,
    ) -> None:
        self._read_usage = read_usage or read_process_usage
        self._free_memory = free_memory or return_unused_memory
        self.lag_s_max = LAG_S_MAX
        self.reason: str | None = None
        """Why the process takes no new work; None: it does."""

    def look(self, lag_s: float) -> None:
        """Set `reason`, and log it when it changes. `lag_s`: how late the event loop is."""
        reason = find_reason(self._read_usage(), lag_s, self.lag_s_max)
        if reason == MEMORY:
            self._free_memory()  # the next look shows whether that has helped
        if (reason is None) is not (self.reason is None):
            log.warning("overload_ended" if reason is None else "overloaded", reason=reason or self.reason)
        self.reason = reason


def find_reason(usage: ProcessUsage, lag_s: float, lag_s_max: float = LAG_S_MAX) -> str | None:
    """Why a process with this usage should take no new work. Pure."""
    used, limit = usage.container or ContainerMemory()
    for bytes_used, bytes_max in ((usage.memory_bytes, usage.memory_bytes_max), (used, limit)):
        if bytes_max and bytes_used > bytes_max * MEMORY_SHARE_MAX:
            return MEMORY
    if usage.files_max and usage.files > usage.files_max * FILES_SHARE_MAX:
        return "open files"
    return "event loop" if lag_s > lag_s_max else None


def return_large_blocks() -> None:
    """From now on, give each large block back to the system when it is freed. By itself glibc keeps blocks of
    up to 32 MB once it has seen some, and bodies of requests leave holes of their size in its heap.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, LARGE_BLOCK_BYTES)


def return_unused_memory() -> None:
    """Give memory that the process has freed back to the system: glibc keeps it for later otherwise, and the
    process would count as overloaded for ever.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def read_process_usage() -> ProcessUsage:
    """This process's usage. On systems other than Linux, where it cannot be read, nothing counts as used."""
    files_max = _limit(resource.RLIMIT_NOFILE)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        files = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - thousands of `Path`s, twice a second
    except OSError:
        return ProcessUsage(0, None, 0, files_max)
    own_bytes, own_bytes_max = pages * resource.getpagesize(), _limit(resource.RLIMIT_AS)
    return ProcessUsage(own_bytes, own_bytes_max, files, files_max, read_container_memory())


def read_container_memory(cgroups: Path = CGROUPS) -> ContainerMemory:
    """The memory of this process's container, without the cache of files."""
    for limit_file, usage_file, cache_rows in CGROUP_FILES:
        usage_path = cgroups / usage_file
        try:
            limit, used = int((cgroups / limit_file).read_text()), int(usage_path.read_text())
            rows = [line.split() for line in usage_path.with_name("memory.stat").read_text().splitlines()]
        except (OSError, ValueError):  # no such group, or a word for "no limit"
            continue
        if limit < UNLIMITED_BYTES:
            cache = sum(int(count) for name, count in rows if name in cache_rows)
            return ContainerMemory(max(0, used - cache), limit)
    return ContainerMemory()


def die_first() -> None:
    """When memory is short, let the kernel end this process before the others of its container."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _limit(kind: int) -> int | None:
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft
