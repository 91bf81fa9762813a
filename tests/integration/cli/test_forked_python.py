"""A fork of a process that has imported everything is a process like others: see `Command`."""

import os
import select
import signal
from pathlib import Path

import pytest

from tests.support.system.forked_python import IMPORTED, ForkServer, ForkServerGone
from tests.support.system.processes import Command

MODULE = f"""
import atexit, os, sys
atexit.register(lambda: print("at the end"))
print(sys.argv[1:], os.environ["NAME"], sorted(set(os.environ) - {{"HOME", "PATH", "LC_CTYPE"}}), os.getcwd())
print(sorted(os.listdir("/proc/self/fd"))[:3], {IMPORTED[0]!r} in sys.modules, file=sys.stderr)
sys.exit(3)
"""


async def test_it_has_its_own_arguments_environment_folder_and_files(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text(MODULE)
    async with await Command.start(
        tmp_path / "logs", "one", "--two", module="thing", cwd=tmp_path, variables={"NAME": "given"}
    ) as command:
        assert await command.end() == 3
        assert command.out == f"['one', '--two'] given ['NAME'] {tmp_path}\nat the end\n"
        assert command.err == "['0', '1', '2'] True\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_signal_ends_it(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "thing.py").write_text("import time; print('begun', flush=True); time.sleep(60)")
    async with await Command.start(tmp_path / "logs", module="thing", cwd=tmp_path) as command:
        await command.says("begun")
        command.signal(number)
        assert await command.end() == -number
        assert not command.running


async def test_a_fault_is_told_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text("1 / 0")
    async with await Command.start(tmp_path / "logs", module="thing", cwd=tmp_path) as command:
        assert await command.end() == 1
        assert "ZeroDivisionError" in command.err


async def test_whoever_awaits_a_fork_is_told_that_nobody_will_tell_of_its_end(tmp_path: Path) -> None:
    (tmp_path / "thing.py").write_text("import time; time.sleep(60)")
    server = ForkServer()
    with (tmp_path / "out").open("w") as out:
        fork = await server.fork(
            "thing", [], cwd=tmp_path, variables={}, stdout=out.fileno(), stderr=out.fileno()
        )
    end = os.pidfd_open(fork.pid)
    try:
        server._process.kill()
        for _ in range(2):
            with pytest.raises(ForkServerGone, match="exit code -9"):
                await fork.wait()
        fork.kill()
        assert select.select([end], [], [], 10)[0], "it can be ended all the same"
    finally:
        os.close(end)
