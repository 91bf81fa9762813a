"""The agent of `tests.support.models.three_tools` for a runner process that a test kills.

The environment gives its name and the file in which the tools record their runs, so that the process that
takes over appends to the same file.
"""

import os
from pathlib import Path

from tests.support.models.three_tools import build_agent, write_to

agent = build_agent(os.environ["TEST_AGENT"], write_to(Path(os.environ["TEST_LEDGER"])))
