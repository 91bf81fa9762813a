"""What every service sets up at its start: logs, signals, exit codes."""

import subprocess
import sys

import pytest

TOLD = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from rejoin_adapters.process.service_process import raise_open_file_limit
print(raise_open_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("soft", "hard", "allowed"), [(256, 4_096, 4_096), (4_096, 4_096, 4_096)])
def test_a_service_may_have_as_many_files_open_as_it_is_allowed(soft: int, hard: int, allowed: int) -> None:
    """Each stream is one: with the usual first limit of 1,024 the next client would be refused."""
    told = subprocess.run(
        (sys.executable, "-c", TOLD.format(soft=soft, hard=hard)), capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == [str(allowed), str(allowed), str(hard)]
