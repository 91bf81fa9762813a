"""`docs/howto/testing.md` is true: every test on the page passes."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from rejoin.pytest_plugin import OpenChat

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "testing.md"
NAMES: dict[str, Any] = {}
for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
    exec(block, NAMES)  # noqa: S102  # our own page
TESTS = sorted(name for name in NAMES if name.startswith("test_"))


@pytest.mark.parametrize("name", TESTS)
async def test_the_page_passes(name: str, rejoin_chat: OpenChat) -> None:
    wanted = inspect.signature(NAMES[name]).parameters
    await NAMES[name](**({"rejoin_chat": rejoin_chat} if wanted else {}))


def test_the_page_has_tests() -> None:
    assert len(TESTS) >= 7
