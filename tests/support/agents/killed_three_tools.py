"""The agent of `tests.support.models.three_tools` for a runner process that a test kills.

Its name and the file of its tools' runs come from the environment, so that the process that takes over writes
the same file.
"""

import os
from pathlib import Path

from tests.support.models.three_tools import build_agent, write_to

agent = build_agent(os.environ["TEST_AGENT"], write_to(Path(os.environ["TEST_LEDGER"])))
