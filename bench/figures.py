"""One line of the table, percentiles, and what a process has used so far (Linux: from /proc)."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")


class Figure(msgspec.Struct, frozen=True):
    """One line. `server` is what was measured: rejoin, or the baselines bare and nats."""

    scenario: str
    server: str
    measure: str
    value: float
    unit: str


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def spread(scenario: str, server: str, seconds: Sequence[float]) -> Iterator[Figure]:
    """The median and the 99th percentile, in ms."""
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        yield Figure(scenario, server, name, percentile(seconds, share) * 1_000, "ms")


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process has used, without its children."""
    return sum(_ticks(pid)[:2]) / _TICKS


def family_cpu_s(pid: int) -> float:
    """The same with its children, those that have ended too."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(_ticks(pid)) / _TICKS + sum(cpu_s(int(child)) for child in children)


def _ticks(pid: int) -> list[int]:
    """In the program and in the kernel, and both of the children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return [int(field) for field in fields[11:15]]


def memory_kb(pid: int) -> int:
    """What a process holds in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
