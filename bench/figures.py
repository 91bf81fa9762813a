"""Figures, percentiles, and the CPU time and memory of a process (from /proc, on Linux)."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")


class Figure(msgspec.Struct, frozen=True):
    """One line of the table. `server`: what was measured, such as `rejoin`, a peer or a baseline (`bare`,
    `nats`).
    """

    scenario: str
    server: str
    measure: str
    value: float
    unit: str


def percentile(values: Sequence[float], share: float) -> float:
    """The value that a `share` of all values (0 to 1) does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latency_figures(scenario: str, server: str, seconds: Sequence[float]) -> Iterator[Figure]:
    """The median and the 99th percentile, in milliseconds."""
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        yield Figure(scenario, server, name, percentile(seconds, share) * 1_000, "ms")


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, in seconds, without its children."""
    return sum(_ticks(pid)[:2]) / _TICKS


def memory_by_service_kb(pids: Mapping[str, int]) -> dict[str, float]:
    """Proportional memory of each service's process and its children, in kilobytes."""
    return {
        service: shared_memory_kb(pid) + _sum_of_living(shared_memory_kb, descendants(pid))
        for service, pid in pids.items()
    }


def cpu_by_service_s(pids: Mapping[str, int]) -> dict[str, float]:
    """CPU time of each service's process and its children, in seconds."""
    return {service: cpu_with_children_s(pid) for service, pid in pids.items()}


def cpu_figures(scenario: str, server: str, shares: Mapping[str, float], unit: str) -> Iterator[Figure]:
    """The sum of the services' shares of CPU time, and each."""
    yield Figure(scenario, server, "CPU", sum(shares.values()), unit)
    for service, share in shares.items():
        yield Figure(scenario, server, f"CPU {service}", share, unit)


def cpu_with_children_s(pid: int) -> float:
    """CPU time of a process and its children, including those that have ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    # In this order: the parent's time includes that of a child that has ended since.
    return sum(_ticks(pid)) / _TICKS + _sum_of_living(cpu_s, map(int, children))


def _sum_of_living(read: Callable[[int], float], pids: Iterable[int]) -> float:
    """The sum over the processes that have not ended meanwhile."""
    total = 0.0
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            total += read(pid)
    return total


def _ticks(pid: int) -> list[int]:
    """User and system time of the process, then of its ended children, in clock ticks."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return [int(field) for field in fields[11:15]]


def shared_memory_kb(pid: int) -> int:
    """Memory of a process in kilobytes, of which pages that several processes share count in parts (PSS)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def descendants(pid: int) -> Iterator[int]:
    """The ids of a process's children, and of theirs. None of a process that has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield int(child)
        yield from descendants(int(child))


def memory_kb(pid: int) -> int:
    """Resident memory of a process, in kilobytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
