"""The agent of `tests.support.models.three_tools` for a runner process that a test kills.

Its name and the file of its tools' runs come from the environment, so that the process that takes over writes
the same file.
"""

import os
from pathlib import Path

from tests.support.models.three_tools import agent_of, written

agent = agent_of(os.environ["TEST_AGENT"], written(Path(os.environ["TEST_LEDGER"])))
