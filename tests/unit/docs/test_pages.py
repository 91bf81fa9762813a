"""Python code on the documentation's pages parses; complete programs also run."""

import ast
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import make_mocked_request

from rejoin_gateway.auth.jwt import JwtVerifier, TokenRules
from rejoin_runner.agent.agent import Agent

DOCS = Path(__file__).parents[3] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
COMPLETE = {
    "quickstart.md": ["agent"],
    "howto/approvals.md": ["agent", "bank"],
    "howto/own-loop.md": ["echo", "travel", "careful"],
    "howto/browser-auth.md": [],
    "mcp.md": ["support"],
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


async def test_the_token_of_the_cookie_page_is_accepted_by_a_gateway_with_the_same_key() -> None:
    names: dict[str, Any] = {}
    [block] = python_blocks(DOCS / "howto/browser-auth.md")
    exec(block, names)  # noqa: S102  # our own document

    async def logged_in_user(_: object) -> str:
        return "ann"

    names["logged_in_user"] = logged_in_user
    response = await names["chat_token"](make_mocked_request("GET", "/chat-token"))
    token = json.loads(response.text)["token"]
    claims = await JwtVerifier(TokenRules(["HS256"]), names["SECRET"], None).verify(token)
    assert (claims["sub"], claims["scope"]) == ("ann", "chat approve")
