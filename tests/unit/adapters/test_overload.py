"""A process close to a limit says so before the kernel acts."""

import pytest
from structlog.testing import capture_logs

from rejoin_adapters.process.overload import (
    Overload,
    ProcessUsage,
    find_reason,
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
