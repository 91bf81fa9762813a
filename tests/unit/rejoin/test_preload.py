"""A process of `rejoin dev` imports at once, and goes on when it is told the rest, or ends with who tells."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from rejoin_adapters.service.service_process import SUPERVISOR

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def started(place: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, socket.socket]]:
    """A package `thing` that says when it is imported and what it then knows; its supervisor is us."""
    package = place / "thing"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "app.py").write_text("print('imported', flush=True)")
    (package / "__main__.py").write_text("import os, sys; print(sys.argv[1:], os.environ['NAME'])")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rejoin.dev.preload", "thing.app", "thing", "one", "--two"),
            cwd=place,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "NAME": "unknown", SUPERVISOR: str(theirs.fileno())},
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"imported\n"
            yield process, ours


async def test_it_goes_on_with_its_arguments_when_it_is_told_the_rest(tmp_path: Path) -> None:
    async with started(tmp_path) as (process, supervisor):
        supervisor.sendall(msgspec.json.encode({"NAME": "told"}) + b"\n")
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"['one', '--two'] told\n")


async def test_it_ends_when_nobody_is_left_to_tell_it(tmp_path: Path) -> None:
    async with started(tmp_path) as (process, supervisor):
        supervisor.close()
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (1, b"", b"the supervisor is gone\n")
