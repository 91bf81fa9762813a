"""What the documentation says about the clients is true, as far as a test can check."""

import ast
import re
import textwrap
from pathlib import Path

import pytest

import rejoin
import rejoin_client
from rejoin_gateway import embed

ROOT = Path(__file__).parents[2]
PAGES = ("docs/clients.md", "clients/python/README.md")
SPOKEN_OF = {
    "client": rejoin_client.Client,
    "chat": rejoin_client.Chat,
    "executions": rejoin_client.Executions,
    "threads": rejoin_client.Threads,
    "rejoin": rejoin,
    "backend": embed.Rejoin,
    "session": embed.ChatSession,
}


def trees(page: str) -> list[ast.Module]:
    text = (ROOT / page).read_text(encoding="utf-8")
    codes = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    plain = [textwrap.indent(code.replace("=…", "=''"), "    ") for code in codes]
    return [ast.parse(f"async def page():\n{code}") for code in plain]


@pytest.mark.parametrize("page", PAGES)
def test_the_code_on_the_page_uses_existing_names(page: str) -> None:
    found = trees(page)
    assert found
    for node in (node for tree in found for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else ast.unparse(node.value)
            kind = SPOKEN_OF.get(owner)
            known = kind is None or hasattr(kind, node.attr) or node.attr in kind.__annotations__
            assert known, ast.unparse(node)
        if isinstance(node, ast.MatchClass):
            assert hasattr(rejoin_client, ast.unparse(node.cls))


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_the_page_links_to_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
