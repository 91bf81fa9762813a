"""A pre-started process imports its module at once, and runs its package when it gets its variables. One that
prepares tables and streams before ends with its parent, too.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from rejoin_adapters.embedded.server import free_port
from rejoin_adapters.process.service_process import SUPERVISOR

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def prestarted(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, socket.socket]]:
    """Pre-start a package that prints when it is imported, and what it gets. The test is its parent."""
    package = folder / "thing"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "app.py").write_text("print('imported', flush=True)")
    (package / "__main__.py").write_text("import os, sys; print(sys.argv[1:], os.environ['NAME'])")
    parent_end, child_end = socket.socketpair()
    with parent_end, child_end:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rejoin.dev.preload", "thing.app", "thing", "one", "--two"),
            cwd=folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "NAME": "unknown",
                SUPERVISOR: str(child_end.fileno()),
            },
            pass_fds=(child_end.fileno(),),
        )
        child_end.close()
        assert process.stdout is not None
        async with asyncio.timeout(20):
            assert await process.stdout.readline() == b"imported\n"
            yield process, parent_end


async def test_the_package_runs_with_its_arguments_and_the_variables(tmp_path: Path) -> None:
    async with prestarted(tmp_path) as (process, supervisor):
        supervisor.sendall(msgspec.json.encode({"NAME": "sent"}) + b"\n")
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"['one', '--two'] sent\n")


async def test_it_exits_if_the_parent_dies(tmp_path: Path) -> None:
    async with prestarted(tmp_path) as (process, supervisor):
        supervisor.close()
        out, err = await process.communicate()
    assert (process.returncode, out, err) == (1, b"", b"the supervisor is gone\n")


async def test_a_process_that_waits_for_the_broker_ends_with_its_parent() -> None:
    """The embedded servers of a parent that was killed never come back."""
    parent_end, child_end = socket.socketpair()
    with parent_end, child_end:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rejoin.dev.prepare", "thing"),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                "REJOIN_NATS_URL": f"nats://127.0.0.1:{free_port()}",
                "REJOIN_DATABASE_URL": "postgresql://127.0.0.1:1/x",
                SUPERVISOR: str(child_end.fileno()),
            },
            pass_fds=(child_end.fileno(),),
        )
        child_end.close()
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b"waiting_for_broker" not in await process.stderr.readline():
                assert process.returncode is None
            parent_end.close()
            assert await process.wait() == -signal.SIGKILL
