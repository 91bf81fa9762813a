"""The pages with tests of agents are true: every test on them passes."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from rejoin.pytest_plugin import OpenChat

HOWTO = Path(__file__).parents[3] / "docs" / "howto"
NAMES: dict[str, Any] = {}
for page in ("testing.md", "steering.md"):
    for block in re.findall(r"```python\n(.*?)```", (HOWTO / page).read_text(encoding="utf-8"), re.DOTALL):
        exec(block, NAMES)  # noqa: S102  # our own page
TESTS = sorted(name for name in NAMES if name.startswith("test_"))


@pytest.mark.feature("F107")
@pytest.mark.parametrize("name", TESTS)
async def test_the_pages_pass(name: str, rejoin_chat: OpenChat) -> None:
    wanted = inspect.signature(NAMES[name]).parameters
    await NAMES[name](**({"rejoin_chat": rejoin_chat} if wanted else {}))


def test_the_pages_have_tests() -> None:
    assert len(TESTS) >= 8
