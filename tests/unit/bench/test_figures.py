"""CPU time and memory are those of a process and its children, while children come and go."""

import subprocess
import sys

from bench.figures import cpu_by_service_s, memory_by_service_kb

PARENT_OF_AN_ENDED_CHILD = """
import os, signal
if not (child := os.fork()):
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # it has ended, and is still in the table of processes
print("ended", flush=True)
signal.pause()
"""


def test_a_child_that_has_ended_has_no_memory_and_fails_no_measurement() -> None:
    command = [sys.executable, "-c", PARENT_OF_AN_ENDED_CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"ended\n"
            assert memory_by_service_kb({"parent": parent.pid})["parent"] > 0
            assert cpu_by_service_s({"parent": parent.pid})["parent"] >= 0
        finally:
            parent.kill()
