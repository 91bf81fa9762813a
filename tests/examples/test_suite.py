"""The tests of `examples/` are those of an application: in memory, and quick."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU_S_MAX = 5.0
"""Of all tests, with the start of the interpreter. The time on the clock says how busy the machine is."""
NO_SERVERS = """
import socket, subprocess

def refuse(*_, **__):
    raise AssertionError("a test of an example opens no connection and starts no process")

socket.socket.connect = socket.socket.bind = subprocess.Popen.__init__ = refuse
"""


def children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
@pytest.mark.feature("F107")
def test_the_tests_of_the_examples_need_no_server_and_less_than_5_seconds(tmp_path: Path) -> None:
    (tmp_path / "no_servers.py").write_text(NO_SERVERS)
    before = children_cpu_s()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "examples", "-q", "-p", "no_servers", "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = sum(path.read_text().count("async def test_") for path in (ROOT / "examples").rglob("test_*.py"))
    [passed] = re.findall(r"^(\d+) passed in", done.stdout, re.MULTILINE)
    assert int(passed) >= tests >= 5
    assert children_cpu_s() - before < CPU_S_MAX
