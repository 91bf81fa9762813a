"""Python code on the documentation's pages parses; complete programs also run."""

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from rejoin_runner.agent.agent import Agent

DOCS = Path(__file__).parents[3] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
COMPLETE = {
    "quickstart.md": ["agent"],
    "howto/approvals.md": ["agent", "bank"],
    "howto/own-loop.md": ["echo", "travel", "careful"],
    "mcp.md": ["support"],
    "sub-agents.md": ["billing", "research", "support"],
}
"""Pages whose Python blocks together are a module, and the agents that it defines."""


def python_blocks(page: Path) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return [
        textwrap.dedent(block)
        for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_python_block_parses(page: Path) -> None:
    for block in python_blocks(page):
        code = block.replace("=…", "=None")
        ast.parse(f"async def page():\n{textwrap.indent(code, '    ')}")


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, marks=[pytest.mark.slow] if page == "howto/own-loop.md" else []
        )  # loads pydantic-ai
        for page in COMPLETE
    ],
)
async def test_the_code_of_a_complete_page_runs_and_defines_its_agents(page: str) -> None:
    """The tests that a page shows run, too."""
    names: dict[str, Any] = {}
    blocks = python_blocks(DOCS / page)
    assert blocks
    for block in blocks:
        exec(block, names)  # noqa: S102  # our own document
    assert [name for name, value in names.items() if isinstance(value, Agent)] == COMPLETE[page]
    for shown in [value for name, value in names.items() if name.startswith("test_")]:
        await shown()
