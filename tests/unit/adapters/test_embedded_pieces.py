"""The embedded supervisor without a server: secrets, locks, ports, the child process and its log."""

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from rejoin_adapters.embedded import child, server
from rejoin_adapters.embedded.child import Child
from rejoin_adapters.embedded.postgres import accepts_clients, shared_memory
from tests.support.system.observation import wait_until


def test_a_secret_is_made_once_and_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    first = server.load_secret(path)
    assert len(first) == 48
    assert server.load_secret(path) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_secret_whose_writing_was_interrupted_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    assert len(server.load_secret(path)) == 48


def test_a_lock_is_taken_by_one_open_file_at_a_time(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert server.try_lock(first)
    assert not server.try_lock(second)
    os.close(first)
    assert server.try_lock(second)
    os.close(second)


def test_a_carried_path_is_found_without_importing_its_package() -> None:
    assert server.path_in_wheel("encodings", "utf_8.py").is_file()
    with pytest.raises(server.EmbeddedError, match="no_such_wheel is not installed: install rejoin"):
        server.path_in_wheel("no_such_wheel", "bin")


def test_the_shared_memory_is_read_from_the_seventh_line_which_comes_late() -> None:
    pid_file = "4711\n/data\n1700000000\n5432\n\n127.0.0.1\n  2163699     65558\nready   \n"
    assert shared_memory(pid_file) == (4711, 65558)
    assert shared_memory("4711\n/data\n") == (4711, None)
    assert shared_memory("") == (0, None)


def test_a_server_accepts_clients_when_its_eighth_line_says_so() -> None:
    lines = "4711\n/data\n1700000000\n5432\n\n127.0.0.1\n  2163699     65558\n"
    assert accepts_clients(f"{lines}ready   \n")
    assert not accepts_clients(f"{lines}starting\n")
    assert not accepts_clients(f"{lines}stopping\n")
    assert not accepts_clients(lines)
    assert not accepts_clients("")


async def spawn(place: Path, script: str) -> Child:
    """A shell, which has said "up" when this returns."""
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT)
    log = place / "child.log"
    try:
        running = await Child.spawn(
            ["/bin/sh", "-c", script], cwd=place, log=log, lock_fd=lock, death_signal=signal.SIGKILL
        )
    finally:
        os.close(lock)
    await wait_until(lambda: "up" in running.log_tail() or running.returncode is not None, "its word")
    return running


async def test_a_child_that_obeys_the_first_signal_gets_no_other(tmp_path: Path) -> None:
    running = await spawn(tmp_path, "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")
    await running.end((signal.SIGTERM, 30))
    assert running.returncode == 7


async def test_a_child_that_ignores_a_signal_gets_the_next_when_its_time_is_over(tmp_path: Path) -> None:
    running = await spawn(tmp_path, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    await running.end((signal.SIGTERM, 0.1))
    assert running.returncode == -signal.SIGKILL


async def test_a_cancelled_end_is_quicker_and_still_an_end(tmp_path: Path) -> None:
    running = await spawn(tmp_path, "trap '' TERM; echo up; while :; do sleep 0.05; done")
    async with asyncio.TaskGroup() as group:
        ending = group.create_task(running.end((signal.SIGTERM, 60)))
        await asyncio.sleep(0)
        ending.cancel()
    assert ending.cancelled()
    assert running.returncode == -signal.SIGKILL


async def test_the_tail_of_the_log_is_of_this_start_and_bounded(tmp_path: Path) -> None:
    await (await spawn(tmp_path, "echo earlier")).end()
    running = await spawn(tmp_path, "echo now; echo up")
    assert await running.wait() == 0
    assert running.log_tail() == "now\nup"
    (tmp_path / "child.log").write_bytes(b"x" * 100_000)
    assert len(running.log_tail()) == child.LOG_TAIL_BYTES_MAX


async def test_a_log_that_has_grown_is_put_aside_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "LOG_SIZE_BYTES_MAX", 3)
    for text in ("one up", "two up", "three up"):
        await (await spawn(tmp_path, f"echo {text}")).wait()
    assert texts(tmp_path) == {"child.log": "three up\n", "child.log.old": "two up\n"}


def texts(place: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in place.glob("*.log*")}
