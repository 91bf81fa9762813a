"""A process close to a limit says so before the kernel acts."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rejoin_adapters.process.overload import (
    ContainerMemory,
    Overload,
    ProcessUsage,
    find_reason,
    read_container_memory,
    read_process_usage,
    return_unused_memory,
)

IDLE = ProcessUsage(100, 1_000, 10, 1_000)


@pytest.mark.parametrize(
    ("usage", "lag_s", "reason"),
    [
        (IDLE, 0.0, None),
        (IDLE._replace(memory_bytes=851), 0.0, "memory"),
        (IDLE._replace(memory_bytes=851, memory_bytes_max=None), 0.0, None),
        (IDLE._replace(container=ContainerMemory(851, 1_000)), 0.0, "memory"),
        (IDLE._replace(container=ContainerMemory(849, 1_000)), 0.0, None),
        (IDLE._replace(container=ContainerMemory(851, None)), 0.0, None),
        (IDLE._replace(files=901), 0.0, "open files"),
        (IDLE._replace(files=901, files_max=None), 0.0, None),
        (IDLE, 2.5, "event loop"),
    ],
)
def test_each_limit_is_a_reason(usage: ProcessUsage, lag_s: float, reason: str | None) -> None:
    assert find_reason(usage, lag_s) == reason


def test_it_is_logged_when_it_begins_and_when_it_ends() -> None:
    usage = [IDLE, IDLE._replace(files=999), IDLE._replace(files=950), IDLE]
    overload = Overload(lambda: usage.pop(0))
    with capture_logs() as lines:
        for _ in range(4):
            overload.look(0.0)
    assert [line["event"] for line in lines] == ["overloaded", "overload_ended"]
    assert {line["reason"] for line in lines} == {"open files"}


def test_memory_that_is_free_is_given_back_to_the_system() -> None:
    freed: list[None] = []
    Overload(lambda: IDLE._replace(memory_bytes=999), lambda: freed.append(None)).look(0.0)
    Overload(lambda: IDLE, lambda: freed.append(None)).look(0.0)
    assert len(freed) == 1
    return_unused_memory()


def test_this_process_uses_memory_and_files() -> None:
    usage = read_process_usage()
    assert usage.memory_bytes > 1024**2
    assert usage.files > 2


V2 = {
    "memory.max": "1000",
    "memory.current": "900",
    "memory.stat": "anon 500\ninactive_file 100\nactive_file 50\n",
}
V1 = {
    "memory/memory.limit_in_bytes": "1000",
    "memory/memory.usage_in_bytes": "900",
    "memory/memory.stat": "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (V2, ContainerMemory(750, 1_000)),
        (V1, ContainerMemory(750, 1_000)),
        (V2 | {"memory.max": "max"}, ContainerMemory()),
        (V1 | {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, ContainerMemory()),
        ({}, ContainerMemory()),
    ],
    ids=["v2", "v1", "v2 without a limit", "v1 without a limit", "none"],
)
def test_all_processes_of_a_container_count_towards_its_limit(
    files: dict[str, str], expected: ContainerMemory, tmp_path: Path
) -> None:
    """The cache of files does not: the kernel drops it before it ends a process."""
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert read_container_memory(tmp_path) == expected
