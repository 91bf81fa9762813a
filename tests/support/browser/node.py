"""Node, with the packages of a lock file: what the tests of JavaScript need."""

import asyncio
import fcntl
import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import pytest

INSTALL_S_MAX = 240.0


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test; fail it if `CI` is set."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def find_node() -> str:
    """The path of Node. Skips the test if there is none."""
    return shutil.which("node") or skip_or_fail("the clients in JavaScript need Node, and there is none")


async def install_packages(folder: Path) -> str:
    """Install the packages of the folder's lock file into the folder, once. Returns the path of Node."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        skip_or_fail("the clients in JavaScript need Node with npm, and there is none")
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    installed = folder / "node_modules" / ".installed"  # for which lock file
    async with lock_folder(folder):
        if not (installed.exists() and installed.read_text() == wanted):
            quick = ("--prefer-offline", "--no-audit", "--no-fund")
            code, said = await run_command(folder, npm, "ci", *quick, seconds=INSTALL_S_MAX)
            if code:
                skip_or_fail(f"npm ci failed: {said[-2_000:]}")
            installed.write_text(wanted)
    return node


@asynccontextmanager
async def lock_folder(folder: Path) -> AsyncIterator[None]:
    """One worker process of the suite at a time."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


async def run_command(folder: Path, *command: str, seconds: float) -> tuple[int, str]:
    """Run a command in a folder. Returns its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(seconds):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, said.decode(errors="replace")
